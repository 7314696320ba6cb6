"""The project's own checkpoint: a folder with ``sae.safetensors`` and ``config.json``."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from saes.config import SAEConfig
from saes.errors import ConfigError, FormatError
from saes.sae import SAE

VERSION = 1
WEIGHTS, CONFIG = "sae.safetensors", "config.json"


def save(sae: SAE, folder: Path, training: dict[str, Any] | None = None) -> None:
    """Write ``sae`` to ``folder``, each file atomically; ``training`` is stored as information only."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in sae.state_dict().items()}
    config = {"format": "saes", "version": VERSION, **asdict(sae.config), "training": training or {}}
    with _whole(folder / WEIGHTS) as path:
        save_file(weights, path)
    with _whole(folder / CONFIG) as path:
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to, which becomes ``path`` when the block is done."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(folder: str | Path) -> SAE:
    """Read an SAE from ``folder``.

    Raises:
        FormatError: the folder is missing or incomplete, is of another format or version, or a tensor has the wrong
            name, shape or content.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FormatError(
                f"No SAE at {folder}: {name} is missing. Expected a folder with {CONFIG} and {WEIGHTS}, as "
                "`steer demo` writes to DIR/sae."
            )
    config = _read_config(folder / CONFIG)
    try:
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{folder / WEIGHTS} cannot be read ({error}). It may be cut off: copy it again.") from error
    sae = SAE(config)
    _check_weights(weights, sae, folder / WEIGHTS)
    sae.load_state_dict(weights)
    return sae.requires_grad_(False)


def _read_config(path: Path) -> SAEConfig:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FormatError(f"{path} is not JSON ({error}).") from error
    if not isinstance(data, dict) or data.get("format") != "saes":
        raise FormatError(f'{path} does not describe an SAE of this format: expected "format": "saes".')
    if data.get("version") != VERSION:
        raise FormatError(f"{path} has version {data.get('version')!r}, this release reads version {VERSION}.")
    known = {field.name for field in fields(SAEConfig)}
    try:
        return SAEConfig(**{name: value for name, value in data.items() if name in known})
    except (TypeError, ConfigError) as error:
        raise FormatError(f"{path}: {error}") from error


def _check_weights(weights: dict[str, torch.Tensor], sae: SAE, path: Path) -> None:
    expected = {name: list(tensor.shape) for name, tensor in sae.state_dict().items()}
    got = {name: list(tensor.shape) for name, tensor in weights.items()}
    if expected != got:
        raise FormatError(f"{path} does not fit its config.json: expected tensors {expected}, got {got}.")
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise FormatError(f"{path}: tensor {name} holds NaN or infinite values.")
