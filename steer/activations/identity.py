"""What activations depend on, as short hashes: they tell whether stored ones fit the model and the text at hand."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from steer.activations.reading import Reading
from steer.activations.sources.source import Source, short_digest
from steer.errors import DataError
from steer.models.model import LanguageModel

_SAMPLE = 64  # values looked at of each weight


def identity(lm: LanguageModel, source: Source, reading: Reading) -> dict[str, Any]:
    """Everything that the activations of a reading depend on, as JSON data. Reads all of a local text once."""
    return {
        "weights": weights_digest(lm),
        "tokenizer": tokenizer_digest(lm),
        "dataset": source.digest(),
        **reading_fields(reading),
    }


def reading_fields(reading: Reading) -> dict[str, Any]:
    """A reading as JSON data."""
    policy = {
        name: list(value) if isinstance(value, tuple) else value for name, value in asdict(reading.policy).items()
    }
    return {
        "sites": [str(site) for site in reading.all_sites],
        "policy": policy,
        "forward_tokens": reading.forward_tokens,
        "window_rows": reading.window_rows,
    }


def weights_digest(lm: LanguageModel) -> str:
    """See ``module_digest``."""
    return module_digest(lm.model)


def module_digest(model: nn.Module) -> str:
    """Hash of the weights' names, shapes, dtypes and of a sample of their values, so it takes no time on any model."""
    found = hashlib.sha256()
    for name, weight in model.named_parameters():
        found.update(f"{name} {list(weight.shape)} {weight.dtype}".encode())
        if not weight.is_meta:
            flat = weight.detach().reshape(-1)
            sample = flat[:: max(1, len(flat) // _SAMPLE)][:_SAMPLE].cpu().contiguous()
            found.update(sample.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def tokenizer_digest(lm: LanguageModel) -> str:
    """Hash of the tokenizer's rules, special tokens and chat template."""
    fast = getattr(lm.tokenizer, "backend_tokenizer", None)
    rules = fast.to_str() if fast is not None else sorted(lm.tokenizer.get_vocab().items())
    return short_digest([rules, lm.tokenizer.all_special_tokens, getattr(lm.tokenizer, "chat_template", None)])


def revision(lm: LanguageModel) -> str | None:
    """The hub's commit that the model was loaded from; None where it came from a folder."""
    return getattr(getattr(lm.model, "config", None), "_commit_hash", None)


def require_same(stored: Mapping[str, Any], given: Mapping[str, Any], what: str, otherwise: str = "begin anew") -> None:
    """Raise DataError, naming the field, both values and the way out, unless ``stored`` has all that is ``given``."""
    for name, value in given.items():
        old = stored.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            require_same(old, value, f"{what}, {name}", otherwise)
        elif old != value:
            raise DataError(
                f"{what} does not fit: {name} is {json.dumps(old)} there, but {json.dumps(value)} here. "
                f"Use the same model, text and settings, or {otherwise}."
            )
