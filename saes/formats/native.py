"""The project's own checkpoint: a folder with ``sae.safetensors`` and ``config.json``.

``config.json`` holds the SHA-256 of the weights' file, and that a copy of the config (without the digest), so that each
tells whether the other belongs to it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from saes.checkpoints import digest_of_file
from saes.config import SAEConfig
from saes.errors import ConfigError, FormatError
from saes.formats.files import Found, read_json, safetensors_bytes, safetensors_in, write
from saes.formats.given import Given
from saes.formats.weights import stored_as
from saes.sae import SAE, tensor_shapes
from saes.shapes import Tensor

VERSION = 3  # 1 knew top-k autoencoders only, 2 no digest; both with today's names
WEIGHTS, CONFIG, DIGEST = "sae.safetensors", "config.json", "weights_sha256"
FILES = (frozenset({WEIGHTS, CONFIG}),)


def save(sae: SAE, folder: Path, dtype: torch.dtype, training: dict[str, Any] | None = None) -> None:
    """Write ``sae`` to ``folder``; ``training`` is stored as information only.

    Both files are complete under temporary names before either gets its own, so a failure leaves what was there.

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
    sae_config: SAEConfig, weights: Mapping[str, Tensor], training: dict[str, Any] | None = None, whole: bool = True
) -> dict[str, bytes]:
    """The files of an SAE by name: its config, and its weights with a copy of that.

    Where ``weights`` are not the ``whole`` SAE, the config holds no digest; ``with_digest`` adds that of the whole.

    Raises:
        ConfigError: ``training`` is not JSON.
    """
    config = {"format": "saes", "version": VERSION, **asdict(sae_config), "training": training or {}}
    try:
        text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"training must be JSON without NaN or infinity ({error}): got {training!r}.") from error
    tensors = {name: tensor.detach().cpu() for name, tensor in weights.items()}
    data = safetensors_bytes(tensors, {CONFIG: text})
    told = with_digest(text, hashlib.sha256(data).hexdigest()) if whole else text
    return {CONFIG: told.encode(), WEIGHTS: data}


def with_digest(text: str, digest: str) -> str:
    """The text of a config, with the SHA-256 of the file of weights."""
    return json.dumps({**json.loads(text), DIGEST: digest}, indent=2) + "\n"


def read(found: Found, given: Given) -> SAE:
    """Read an SAE from its folder.

    Raises:
        FormatError: the folder is incomplete, is of another format or version, its two files do not belong together,
            the weights are not those that were saved, or a tensor has the wrong name, shape, dtype or content.
    """
    config = _read_config(found.folder / CONFIG, given)
    stored = safetensors_in(found.folder / WEIGHTS)
    expected = tensor_shapes(config)
    if stored.shapes != expected:
        raise FormatError(
            f"{stored.path} does not fit its config.json: expected tensors {expected}, got {stored.shapes}."
        )
    _check_pair(found.folder)
    weights = stored.take(expected)
    return SAE.from_tensors(config, weights).requires_grad_(False)


def _read_config(path: Path, given: Given) -> SAEConfig:
    data = read_json(path)
    if data.get("format") != "saes":
        raise FormatError(f'{path} does not describe an SAE of this format: expected "format": "saes".')
    if data.get("version") not in range(1, VERSION + 1):
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
    """A kill between the two renames of ``save`` leaves an older config with newer weights; disks and copies err."""
    path, told = folder / WEIGHTS, read_json(folder / CONFIG)
    digest = told.pop(DIGEST, None)  # None: written by an earlier release
    with safe_open(path, framework="pt") as file:
        written = (file.metadata() or {}).get(CONFIG)  # the same
    if written is not None and not _is_json(written, told):
        raise FormatError(
            f"{path} was not written together with {CONFIG} beside it: saving was cut short, or one file "
            "was changed. Save or copy the SAE again."
        )
    if digest is not None and (got := digest_of_file(path)) != digest:
        raise FormatError(
            f"{path} has been altered, or saving it was cut short: its SHA-256 is {got[:16]}..., expected "
            f"{str(digest)[:16]}... by {CONFIG} beside it. Save or copy the SAE again; if you have changed the weights "
            f"on purpose, remove {DIGEST} from {CONFIG}."
        )


def _is_json(text: str, data: Mapping[str, Any]) -> bool:
    """Whether a text is these data as JSON."""
    try:
        return bool(json.loads(text) == data)
    except (ValueError, RecursionError):
        return False
