"""The project's own checkpoint: a folder with ``sae.safetensors`` and ``config.json``."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from saes.config import SAEConfig
from saes.errors import ConfigError, FormatError, ShapeError
from saes.sae import SAE, tensor_shapes

VERSION = 2
WEIGHTS, CONFIG = "sae.safetensors", "config.json"
FLOATS = ("F64", "F32", "F16", "BF16")


def save(sae: SAE, folder: str | Path, training: dict[str, Any] | None = None) -> None:
    """Write ``sae`` to ``folder``; ``training`` is stored as information only.

    Both files are complete under temporary names before either gets its own, so a failure leaves what was there. The
    weights carry a copy of the config, by which ``load`` tells files that do not belong together.

    Raises:
        ShapeError: a weight is NaN or infinite.
        ConfigError: ``sae`` is no SAE, or ``training`` is not JSON.
        FormatError: the folder cannot be written to.
    """
    if not isinstance(sae, SAE):
        raise ConfigError(f"An SAE is saved, got {type(sae).__name__}. fit and load give one.")
    folder = _path(folder)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in sae.state_dict().items()}
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ShapeError(f"The SAE is not written: {name} holds NaN or infinite values. Train it again.")
    config = {"format": "saes", "version": VERSION, **asdict(sae.config), "training": training or {}}
    try:
        text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"training must be JSON without NaN or infinity ({error}): got {training!r}.") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _whole(folder / CONFIG) as config_path, _whole(folder / WEIGHTS) as weights_path:
            # written as bytes, since safetensors' own files can be read by nobody but their owner
            weights_path.write_bytes(to_bytes(weights, {CONFIG: text}))
            config_path.write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise FormatError(f"The SAE cannot be written to {folder} ({error}). Choose another folder.") from error


def _path(folder: object) -> Path:
    if not isinstance(folder, str | Path):
        raise FormatError(f"An SAE lies in a folder, given as text or a Path: got {type(folder).__name__}.")
    return Path(folder)


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
        FormatError: the folder is missing or incomplete, is of another format or version, its two files do not belong
            together, or a tensor has the wrong name, shape, dtype or content.
    """
    folder = _path(folder)
    try:
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise FormatError(
                    f"No SAE at {folder}: {name} is missing. Expected a folder with {CONFIG} and {WEIGHTS}, as "
                    "`steer demo` writes to DIR/sae."
                )
        config = _read_config(folder / CONFIG)
        weights = _read_weights(folder / WEIGHTS, tensor_shapes(config))
        _check_pair(folder)
    except OSError as error:
        raise FormatError(f"The SAE at {folder} cannot be read ({error}). Check the permissions.") from error
    sae = SAE(config)
    sae.load_state_dict(weights)
    return sae.requires_grad_(False)


def _read_config(path: Path) -> SAEConfig:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not JSON ({error}).") from error
    if not isinstance(data, dict) or data.get("format") != "saes":
        raise FormatError(f'{path} does not describe an SAE of this format: expected "format": "saes".')
    if data.get("version") not in range(1, VERSION + 1):  # version 1 knew top-k autoencoders only, with today's names
        raise FormatError(f"{path} has version {data.get('version')!r}, this release reads versions 1 to {VERSION}.")
    if isinstance(data.get("prefixes"), list):
        data["prefixes"] = tuple(data["prefixes"])
    if missing := [field.name for field in fields(SAEConfig) if field.default is MISSING and field.name not in data]:
        raise FormatError(f"{path} lacks {', '.join(missing)}. Copy the SAE again.")
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


def _read_weights(path: Path, expected: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The tensors in float32. The file's header is checked first, so nothing is allocated for one that does not fit."""
    try:
        with safe_open(path, framework="pt") as file:
            headers = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
            shapes = {name: list(header.get_shape()) for name, header in headers.items()}
            if shapes != expected:
                raise FormatError(f"{path} does not fit its config.json: expected tensors {expected}, got {shapes}.")
            for name, header in headers.items():
                if header.get_dtype() not in FLOATS:
                    raise FormatError(
                        f"{path}: tensor {name} has dtype {header.get_dtype()}, expected one of {', '.join(FLOATS)}. "
                        "Quantised weights are not read; convert them to float32."
                    )
            weights = {name: file.get_tensor(name).float() for name in headers}
    except SafetensorError as error:
        raise FormatError(f"{path} cannot be read ({error}). It may be cut off: copy it again.") from error
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise FormatError(f"{path}: tensor {name} holds NaN or infinite values.")
    return weights
