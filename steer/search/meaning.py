"""Labels by meaning: a local model of sentence embeddings, mean-pooled, and cosines with a question."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from steer.digest import of_json
from steer.errors import ModelError

_BATCH = 64  # texts


@dataclass(frozen=True, eq=False)
class Embedder:
    """Vectors of texts: the mean of the last hidden states over real tokens, at unit length.

    That is what sentence-transformers computes with pooling ``mean`` and normalisation.
    """

    model: nn.Module
    tokenizer: Any

    @property
    def digest(self) -> str:
        """By which it is known again: hash of its weights, its tokenizer's rules and its limit of length."""
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        rules = sorted(self.tokenizer.get_vocab().items()) if fast is None else json.loads(fast.to_str())
        if isinstance(rules, dict):  # as the last call left them
            rules = {name: value for name, value in rules.items() if name not in ("padding", "truncation")}
        limit = min(int(self.tokenizer.model_max_length), 2**53)
        return of_json([_weights_digest(self.model), rules, limit])[:32]

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "text width"]:
        """One row a text."""
        device = next(self.model.parameters()).device
        found = []
        for start in range(0, len(texts), _BATCH):
            read = self.tokenizer(
                list(texts[start : start + _BATCH]), padding=True, truncation=True, return_tensors="pt"
            ).to(device)
            states = self.model(input_ids=read["input_ids"], attention_mask=read["attention_mask"]).last_hidden_state
            mask = read["attention_mask"].unsqueeze(-1)
            means = (states.float() * mask).sum(1) / mask.sum(1).clamp_min(1)
            found.append(torch.nn.functional.normalize(means, dim=-1).cpu())
        return torch.cat(found).numpy() if found else np.zeros((0, 1), dtype=np.float32)


def _weights_digest(model: nn.Module) -> str:
    found = hashlib.sha256()
    for name, weight in model.named_parameters():
        found.update(f"{name} {list(weight.shape)} {weight.dtype}".encode())
        found.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def load_embedder(folder: str | Path) -> Embedder:
    """A model of embeddings in a local folder, in transformers format. Nothing is downloaded, and none of its code run.

    Raises:
        ModelError: there is no such folder, or it cannot be loaded.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"No embedder at {folder}: it is no folder. Give one with a model in transformers format.")
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModel.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except Exception as error:  # the libraries below raise errors of many kinds
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"The embedder in {folder} cannot be loaded ({reason}). Check its files.") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "right"
    return Embedder(model.eval().requires_grad_(False), tokenizer)


def similarities(
    embed: Embedder, question: str, labels: Sequence[str], vectors: Float[np.ndarray, "label width"] | None = None
) -> Float[np.ndarray, " label"]:
    """Cosine of each label with a question; ``vectors`` are those of the labels, where they are known already."""
    if not labels:
        return np.zeros(0)
    known = embed(labels) if vectors is None else vectors
    found: Float[np.ndarray, " label"] = np.asarray(known, dtype=np.float64) @ embed([question])[0].astype(np.float64)
    return found
