"""Interventions as JSON data, for records of what was run: tensors and models as digests, functions as names."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from saes import SAE
from steer.models.classifier import TextClassifier
from steer.models.site import Site
from steer.plans.digests import of_classifier, of_sae


def described(value: Any) -> Any:
    """A value of an intervention as JSON data; dataclasses say their kind, and their fields by name."""
    if isinstance(value, Site):
        return str(value)
    if isinstance(value, SAE):
        return {"kind": "SAE", "d_in": value.config.d_in, "d_sae": value.config.d_sae, "sha256": of_sae(value)}
    if isinstance(value, TextClassifier):
        return {"kind": "TextClassifier", "label": value.label, "sha256": of_classifier(value)}
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "sha256": digest_of(value)} if value.ndim else described(value.item())
    if is_dataclass(value) and not isinstance(value, type):
        shown = {one.name: described(getattr(value, one.name)) for one in fields(value) if one.name[0] != "_"}
        return {"kind": type(value).__name__, **shown}
    if isinstance(value, Mapping):
        return {str(name): described(one) for name, one in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(described, value))
    if isinstance(value, list | tuple):
        return [described(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return _name_of(value) if callable(value) else repr(value)


def _name_of(function: Any) -> str:
    """A name that is the same in every process, as ``repr`` with its address is not."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def digest_of(tensor: Tensor) -> str:
    """The SHA-256 of a tensor's values and dtype."""
    found = hashlib.sha256(str(tensor.dtype).encode())
    found.update(tensor.detach().cpu().contiguous().reshape(-1).view(dtype=torch.uint8).numpy().tobytes())
    return found.hexdigest()
