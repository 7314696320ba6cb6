"""What tells models, SAEs, vectors and plans apart: SHA-256 of what decides them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from saes import SAE
from steer.digest import of_json
from steer.models.classifier import TextClassifier
from steer.models.model import LanguageModel

_SHAPE = (
    "model_type", "vocab_size", "hidden_size", "n_embd", "d_model", "intermediate_size", "n_inner", "num_hidden_layers",
    "n_layer", "num_attention_heads", "n_head", "num_key_value_heads", "head_dim",
)  # fmt: skip
"""Fields of a model's config that decide its shape; other fields come and go with releases of transformers."""
_SAE_SAYS = ("model", "site", "site_out", "revision", "token_policy", "input_scale", "prefixes")
"""Fields of an SAE's config that say where it comes from; the others decide what it computes."""


def of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Of tensors by name: names, shapes, and values in float32."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu", torch.float32).contiguous()
        found.update(json.dumps([name, list(tensor.shape)]).encode("utf-8"))
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def of_sae(sae: SAE) -> str:
    """Of an SAE: its weights, and the fields of its config that decide what it computes."""
    config = {name: value for name, value in asdict(sae.config).items() if name not in _SAE_SAYS}
    return of_json([config, of_tensors(sae.state_dict())])


def of_classifier(classifier: TextClassifier) -> str:
    """Of a classifier of texts: its weights, and the class that counts."""
    return of_json([of_tensors(dict(classifier.model.named_parameters())), classifier.label])


def of_config(lm: LanguageModel) -> str:
    """Of the fields of a model's config that decide its shape."""
    config = getattr(lm.model, "config", None) or getattr(lm.model, "cfg", None)
    text = getattr(config, "text_config", None) or config
    found = {name: getattr(text, name, None) for name in _SHAPE}
    return of_json({name: value for name, value in found.items() if isinstance(value, int | str)})


def of_weights(lm: LanguageModel) -> str:
    """Of all of a model's weights. Reads them all."""
    return of_tensors(dict(lm.model.named_parameters()))
