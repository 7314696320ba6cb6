"""What tells models, SAEs, prompts and judges apart: SHA-256 of what decides what they do."""

import ast
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from saes import SAE
from steer.activations.identity import tokenizer_digest
from steer.evals import judges
from steer.evals.sample import Sample
from steer.models.model import LanguageModel

_SAE_SAYS = ("model", "site", "site_out", "revision", "token_policy", "input_scale", "prefixes")
"""Fields of an SAE's config that say where it comes from; the others decide what it computes."""


def of_json(data: Any) -> str:
    """Of JSON data; the order of keys does not matter."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Of tensors by name: names, shapes, dtypes and every value."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode("utf-8"))
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def of_model(lm: LanguageModel) -> str:
    """Of a model: its weights, all of them, and its tokenizer with its chat template."""
    tensors = {**dict(lm.model.named_parameters()), **dict(lm.model.named_buffers())}
    return of_json([of_tensors(tensors), tokenizer_digest(lm), lm.stop_ids()])


def of_sae(sae: SAE) -> str:
    """Of an SAE: its weights, and the fields of its config that decide what it computes."""
    config = {name: value for name, value in asdict(sae.config).items() if name not in _SAE_SAYS}
    return of_json([config, of_tensors(sae.state_dict())])


def of_samples(samples: Sequence[Sample]) -> str:
    """Of samples in their order: what the model is given and what is expected."""
    return of_json([[one.id, list(one.messages), one.kind, one.expect] for one in samples])


def of_judges(module: ModuleType = judges) -> str:
    """Of the rules by which replies are judged: the code of their module, comments left out."""
    return hashlib.sha256(ast.dump(ast.parse(inspect.getsource(module))).encode("utf-8")).hexdigest()
