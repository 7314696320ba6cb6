"""The project's own checkpoint: a folder with ``sae.safetensors`` and ``config.json``."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from saes.config import SAEConfig
from saes.errors import ConfigError, FormatError
from saes.formats.files import Found, read_json, safetensors_bytes, safetensors_in, write
from saes.formats.given import Given
from saes.formats.weights import stored_as
from saes.sae import SAE, tensor_shapes
from saes.shapes import Tensor

VERSION = 2
WEIGHTS, CONFIG = "sae.safetensors", "config.json"
FILES = (frozenset({WEIGHTS, CONFIG}),)


def save(sae: SAE, folder: Path, dtype: torch.dtype, training: dict[str, Any] | None = None) -> None:
    """Write ``sae`` to ``folder``; ``training`` is stored as information only.

    Both files are complete under temporary names before either gets its own, so a failure leaves what was there. The
    weights carry a copy of the config, by which ``read`` tells files that do not belong together.

    Raises:
        ConfigError: ``training`` is not JSON, or the folder holds an SAE of the sparsify format, whose weights have the
            same name.
        FormatError: the folder cannot be written to.
    """
    if (folder / "cfg.json").exists():
        raise ConfigError(f"{folder} holds an SAE of another format (cfg.json). Choose another folder.")
    weights = stored_as({name: tensor.detach().cpu() for name, tensor in sae.state_dict().items()}, dtype)
    write(folder, contents(sae.config, weights, training))


def contents(
    sae_config: SAEConfig, weights: Mapping[str, Tensor], training: dict[str, Any] | None = None
) -> dict[str, bytes]:
    """The files of an SAE by name: its config, and its weights with a copy of that.

    Raises:
        ConfigError: ``training`` is not JSON.
    """
    config = {"format": "saes", "version": VERSION, **asdict(sae_config), "training": training or {}}
    try:
        text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"training must be JSON without NaN or infinity ({error}): got {training!r}.") from error
    tensors = {name: tensor.detach().cpu() for name, tensor in weights.items()}
    return {CONFIG: text.encode(), WEIGHTS: safetensors_bytes(tensors, {CONFIG: text})}


def read(found: Found, given: Given) -> SAE:
    """Read an SAE from its folder.

    Raises:
        FormatError: the folder is incomplete, is of another format or version, its two files do not belong together, or
            a tensor has the wrong name, shape, dtype or content.
    """
    config = _read_config(found.folder / CONFIG, given)
    stored = safetensors_in(found.folder / WEIGHTS)
    expected = tensor_shapes(config)
    if stored.shapes != expected:
        raise FormatError(
            f"{stored.path} does not fit its config.json: expected tensors {expected}, got {stored.shapes}."
        )
    weights = stored.take(expected)
    _check_pair(found.folder)
    return SAE.from_tensors(config, weights).requires_grad_(False)


def _read_config(path: Path, given: Given) -> SAEConfig:
    data = read_json(path)
    if data.get("format") != "saes":
        raise FormatError(f'{path} does not describe an SAE of this format: expected "format": "saes".')
    if data.get("version") not in range(1, VERSION + 1):  # version 1 knew top-k autoencoders only, with today's names
        raise FormatError(f"{path} has version {data.get('version')!r}, this release reads versions 1 to {VERSION}.")
    if isinstance(data.get("prefixes"), list):
        data["prefixes"] = tuple(data["prefixes"])
    if missing := [field.name for field in fields(SAEConfig) if field.default is MISSING and field.name not in data]:
        raise FormatError(f"{path} lacks {', '.join(missing)}. Copy the SAE again.")
    data |= {name: value for name in ("model", "site") if (value := getattr(given, name)) is not None}
    try:
        return SAEConfig(**{field.name: data[field.name] for field in fields(SAEConfig) if field.name in data})
    except ConfigError as error:
        raise FormatError(f"{path}: {error}") from error


def _check_pair(folder: Path) -> None:
    """A kill between the two renames of ``save`` leaves an older config with newer weights."""
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        written = (file.metadata() or {}).get(CONFIG)  # None: written by an earlier release
    if written is not None and written != (folder / CONFIG).read_text(encoding="utf-8"):
        raise FormatError(
            f"{folder / WEIGHTS} was not written together with {CONFIG} beside it: saving was cut short, or one file "
            "was changed. Save or copy the SAE again."
        )
