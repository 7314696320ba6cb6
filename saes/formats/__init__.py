"""Checkpoints of SAEs, read from and written to the formats in use. One file a format; ``load`` tells them apart."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saes.errors import ConfigError, FormatError, ShapeError
from saes.formats import (
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    goodfire,
    llama_scope,
    llamascopium,
    native,
    nvidia,
    openai,
    qwen_scope,
    saelens,
    sparsify,
)
from saes.formats.files import Found, find
from saes.formats.given import Given
from saes.sae import SAE


@dataclass(frozen=True)
class Format:
    """One format of checkpoints."""

    name: str
    """As ``load`` and ``save`` take it."""
    read: Callable[[Found, Given], SAE]
    """Reads an SAE."""
    save: Callable[[SAE, Path], None] | None = None
    """Writes one; None: the format is read only."""
    files: tuple[frozenset[str], ...] = ()
    """Files by which a folder is recognised, in alternatives."""
    keys: tuple[frozenset[str], ...] = ()
    """Keys by which a torch file is recognised, in alternatives."""


FORMATS = (
    Format("saes", native.read, native.save, files=native.FILES),
    Format("saelens", saelens.read, saelens.save, files=saelens.FILES),
    Format("sparsify", sparsify.read, sparsify.save, files=sparsify.FILES),
    Format("dictionary_learning", dictionary_learning.read, dictionary_learning.save, keys=dictionary_learning.KEYS),
    Format("gemma_scope", gemma_scope.read, gemma_scope.save, files=gemma_scope.FILES),
    Format("gemma_scope_2", gemma_scope_2.read, files=gemma_scope_2.FILES),
    Format("openai", openai.read, openai.save, keys=openai.KEYS),
    Format("llama_scope", llama_scope.read, llama_scope.save, files=llama_scope.FILES),
    Format("llamascopium", llamascopium.read, files=llamascopium.FILES),
    Format("qwen_scope", qwen_scope.read, keys=qwen_scope.KEYS),
    Format("goodfire", goodfire.read, keys=goodfire.KEYS),
    Format("nvidia", nvidia.read, keys=nvidia.KEYS),
)


def load(
    path: str | Path,
    format: str | None = None,
    *,
    k: int | None = None,
    input_scale: float | None = None,
    model: str | None = None,
    site: str | None = None,
) -> SAE:
    """Read an SAE from a folder or a file, in any of ``FORMATS``.

    The SAE reads raw activations, in float32: what its library does to them besides is folded into the weights, or
    stands in the config (``input_norm``). Nothing is executed: pickles are read with ``weights_only``.

    Args:
        path: the folder of a checkpoint, or one file of it.
        format: the format's name; None: it is recognised by its files, or by the keys of a torch file.
        k: latents active on a token, where the files do not say it.
        input_scale: factor that activations were multiplied by in training, where the files do not say it.
        model: name of the language model, instead of what the files say.
        site: where in the model the SAE reads, instead of what the files say.

    Raises:
        FormatError: nothing is there, the format is not recognised, or a file is damaged, incomplete, not consistent,
        or
            holds what has no exact form here.
        ConfigError: there is no format of this name.
    """
    found, given = find(_path(path)), Given(k, input_scale, model, site)
    chosen = _recognised(found) if format is None else _named(format)
    try:
        return chosen.read(found, given)
    except OSError as error:
        raise FormatError(f"The SAE at {path} cannot be read ({error}). Check the permissions.") from error


def save(sae: SAE, path: str | Path, format: str = "saes", *, training: dict[str, Any] | None = None) -> None:
    """Write ``sae`` to a folder, in float32; ``openai`` writes one file if ``path`` ends with ``.pt``.

    Files are complete under temporary names before any gets its own, so a failure leaves what was there.

    Args:
        sae: the SAE.
        path: where to write it.
        format: one of the formats in ``FORMATS`` that are written.
        training: information on the training, kept by this project's own format.

    Raises:
        ShapeError: a weight is NaN or infinite.
        ConfigError: ``sae`` is no SAE, the format is not known, is read only, or has no exact form for the SAE, or
            ``training`` is not JSON.
        FormatError: the path cannot be written to.
    """
    if not isinstance(sae, SAE):
        raise ConfigError(f"An SAE is saved, got {type(sae).__name__}. fit and load give one.")
    chosen, path = _named(format), _path(path)
    if chosen.save is None:
        written = ", ".join(one.name for one in FORMATS if one.save)
        raise ConfigError(f"The format {format} is read only. Written are {written}.")
    for name, tensor in sae.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ShapeError(f"The SAE is not written: {name} holds NaN or infinite values. Train it again.")
    if format == "saes":
        native.save(sae, path, training)
    elif training is not None:
        raise ConfigError(f"The format {format} has no place for training. Leave it out, or write the format saes.")
    else:
        chosen.save(sae, path)


def _path(path: object) -> Path:
    if not isinstance(path, str | Path):
        raise FormatError(f"An SAE lies in a folder or a file, given as text or a Path: got {type(path).__name__}.")
    return Path(path)


def _named(name: str) -> Format:
    for one in FORMATS:
        if one.name == name:
            return one
    raise ConfigError(f"There is no format {name!r}: expected one of {', '.join(one.name for one in FORMATS)}.")


def _recognised(found: Found) -> Format:
    """The format of which all files are there; else, for a torch file, the one with most of its keys."""
    if by_files := [one for one in FORMATS if any(found.has(*files) for files in one.files)]:
        if len(by_files) > 1:
            names = " and ".join(one.name for one in by_files)
            raise FormatError(f"{found.path} holds SAEs of the formats {names}. Say which is meant with format=...")
        return by_files[0]
    matching = [(len(keys), one) for one in FORMATS for keys in one.keys if keys <= found.keys]
    if matching:
        return max(matching, key=lambda pair: pair[0])[1]
    raise FormatError(f"No SAE of a known format at {found.path}: {_what_is_there(found)}")


def _what_is_there(found: Found) -> str:
    if found.torch_file is not None:
        keys = ", ".join(sorted(found.keys)[:12]) or "nothing"
        return f"{found.torch_file.name} holds {keys}. Give format=... if it is known."
    started = [
        f"{', '.join(sorted(files - found.files))} is missing for the format {one.name}"
        for one in FORMATS
        for files in one.files
        if files & found.files
    ]
    layouts = [f"{' and '.join(sorted(files))} ({one.name})" for one in FORMATS for files in one.files[:1]]
    return "; ".join(started or [f"expected {', '.join(layouts)}, or one .pt file"]) + "."
