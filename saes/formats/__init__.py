"""Checkpoints of SAEs, read from and written to the formats in use. One file a format; ``load`` tells them apart."""

from collections.abc import Callable, Collection
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
from saes.formats.files import Found, all_finite, find
from saes.formats.given import Given
from saes.paths import as_path
from saes.sae import SAE


@dataclass(frozen=True)
class Format:
    """One format of checkpoints."""

    name: str
    """As ``load`` and ``save`` take it."""
    read: Callable[[Found, Given], SAE]
    """Reads an SAE."""
    save: Callable[[SAE, Path, torch.dtype], None] | None = None
    """Writes one, its weights in a dtype; None: the format is read only."""
    files: tuple[frozenset[str], ...] = ()
    """Files by which a folder is recognised, in alternatives."""
    keys: tuple[frozenset[str], ...] = ()
    """Keys by which a torch file is recognised, in alternatives."""
    beside: tuple[str, ...] = ()
    """Other files, by their path from the folder, that ``read`` takes into account where they are there."""


FORMATS = (
    Format("saes", native.read, native.save, files=native.FILES),
    Format("saelens", saelens.read, saelens.save, files=saelens.FILES, beside=saelens.BESIDE),
    Format("sparsify", sparsify.read, sparsify.save, files=sparsify.FILES, beside=sparsify.BESIDE),
    Format(
        "dictionary_learning",
        dictionary_learning.read,
        dictionary_learning.save,
        keys=dictionary_learning.KEYS,
        beside=dictionary_learning.BESIDE,
    ),
    Format("gemma_scope", gemma_scope.read, gemma_scope.save, files=gemma_scope.FILES),
    Format("gemma_scope_2", gemma_scope_2.read, files=gemma_scope_2.FILES, beside=gemma_scope_2.BESIDE),
    Format("openai", openai.read, openai.save, keys=openai.KEYS),
    Format("llama_scope", llama_scope.read, llama_scope.save, files=llama_scope.FILES),
    Format("llamascopium", llamascopium.read, files=llamascopium.FILES),
    Format("qwen_scope", qwen_scope.read, keys=qwen_scope.KEYS),
    Format("goodfire", goodfire.read, keys=goodfire.KEYS),
    Format("nvidia", nvidia.read, keys=nvidia.KEYS),
)
_BESIDE_TORCH = sorted({name for one in FORMATS if one.keys for name in one.beside})  # the keys are not known yet


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
        k: latents active on a token, where the files do not say it; where they do, the same.
        input_scale: factor that activations were multiplied by in training, where the files do not say it; the same.
        model: name of the language model, instead of what the files say.
        site: where in the model the SAE reads, instead of what the files say.

    Raises:
        FormatError: nothing is there, the format is not recognised, or a file is damaged, incomplete, not consistent,
            or holds what has no exact form here; or ``k`` or ``input_scale`` are other than the files say.
        ConfigError: there is no format of this name, or ``model`` or ``site`` is no name.
    """
    given = Given(k, input_scale, model, site)
    sae = read(path, format, given)
    given.require_heeded(sae.config, Path(path))
    return sae


def read(path: Any, format: str | None, given: Given) -> SAE:
    """``load``, but that what is ``given`` need not be of use: what somebody's list says beside the files.

    Raises:
        FormatError, ConfigError: see ``load``.
    """
    try:
        found = find(_path(path))
        return _chosen(found, format).read(found, given)
    except OSError as error:
        raise FormatError(f"The SAE at {path} cannot be read ({error}). Check the permissions.") from error


@dataclass(frozen=True)
class Recognised:
    """An SAE's files, before they are read."""

    format: Format
    folder: Path
    names: tuple[str, ...]
    """Paths from the folder of the files that ``load`` reads."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        return tuple(self.folder / name for name in self.names)


def recognise(path: str | Path, format: str | None = None) -> Recognised:
    """The format of what is at a path, and the files of it that ``load`` reads. ``format`` as in ``load``.

    Raises:
        FormatError: nothing is there, or the format is not recognised.
        ConfigError: there is no format of this name.
    """
    found = find(_path(path))
    chosen = _chosen(found, format)
    names = sorted(_files_of(found, chosen))
    if not names and found.torch_file is not None:
        names = [found.torch_file.relative_to(found.folder).as_posix()]
    beside = [name for name in chosen.beside if name not in names and (found.folder / name).is_file()]
    return Recognised(chosen, found.folder, (*names, *beside))


def files_to_read(names: Collection[str], file: str | None = None, format: str | None = None) -> tuple[list[str], ...]:
    """What ``load`` needs of a folder that is elsewhere: the files it must have, and those it reads if they are there.

    Args:
        names: files of the folder by their path from it, those in ``checkpoints/`` included.
        file: one of them, if ``load`` is to be given that file; None: the folder.
        format: as in ``load``.

    Raises:
        FormatError: no format has such files.
        ConfigError: there is no format of this name.
    """
    folder = Path("folder")  # nothing is looked for there
    found = Found(folder / file if file else folder, folder, frozenset(names))
    named = None if format is None else find_format(format)
    if (named is None or named.files) and (chosen := named or _by_files(found)):
        if files := _files_of(found, chosen):
            return sorted(files), list(chosen.beside)
        missing = " or ".join(", ".join(sorted(files - found.files)) for files in chosen.files)
        raise FormatError(f"The format {chosen.name} needs {missing}, which is not there.")
    if found.torch_file is not None:
        return [found.torch_file.relative_to(folder).as_posix()], list(_BESIDE_TORCH)
    raise FormatError(f"No SAE of a known format there: {_what_is_there(found)}")


def save(
    sae: SAE,
    path: str | Path,
    format: str = "saes",
    *,
    training: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write ``sae`` to a folder; ``openai`` writes one file if ``path`` ends with ``.pt``.

    Files are complete under temporary names before any gets its own, so a failure leaves what was there.

    Args:
        sae: the SAE.
        path: where to write it.
        format: one of the formats in ``FORMATS`` that are written.
        training: information on the training, kept by this project's own format.
        dtype: how weights and biases are stored: float32, bfloat16 or float16. Thresholds stay float32.

    Raises:
        ShapeError: a weight is NaN or infinite, or too large for ``dtype``.
        ConfigError: ``sae`` is no SAE, the format is not known, is read only, or has no exact form for the SAE or the
            dtype, or ``training`` is not JSON.
        FormatError: the path cannot be written to.
    """
    if not isinstance(sae, SAE):
        raise ConfigError(f"An SAE is saved, got {type(sae).__name__}. fit and load give one.")
    chosen, path = find_format(format), _path(path)
    if chosen.save is None:
        written = ", ".join(one.name for one in FORMATS if one.save)
        raise ConfigError(f"The format {format} is read only. Written are {written}.")
    for name, tensor in sae.state_dict().items():
        if not all_finite(tensor):
            raise ShapeError(f"The SAE is not written: {name} holds NaN or infinite values. Train it again.")
    if format != "saes" and training is not None:
        raise ConfigError(f"The format {format} has no place for training. Leave it out, or write the format saes.")
    try:
        native.save(sae, path, dtype, training) if format == "saes" else chosen.save(sae, path, dtype)
    except OSError as error:
        raise FormatError(f"The SAE cannot be written to {path} ({error}). Choose another folder.") from error


def _path(path: object) -> Path:
    return as_path(path, "The folder or file of an SAE", FormatError)


def find_format(name: str) -> Format:
    """A format by its name.

    Raises:
        ConfigError: there is none of this name.
    """
    for one in FORMATS:
        if one.name == name:
            return one
    raise ConfigError(f"There is no format {name!r}: expected one of {', '.join(one.name for one in FORMATS)}.")


def _chosen(found: Found, format: str | None) -> Format:
    return _recognised(found) if format is None else find_format(format)


def _files_of(found: Found, chosen: Format) -> frozenset[str]:
    """The first alternative of a format's files that is there in full; empty if none is."""
    return next((files for files in chosen.files if found.has(*files)), frozenset())


def _by_files(found: Found) -> Format | None:
    """The one format of which all files are there, if any."""
    by_files = [one for one in FORMATS if _files_of(found, one)]
    if len(by_files) > 1:
        names = " and ".join(one.name for one in by_files)
        raise FormatError(f"{found.path} holds SAEs of the formats {names}. Say which is meant with format=...")
    return by_files[0] if by_files else None


def _recognised(found: Found) -> Format:
    """The format of which all files are there; else, for a torch file, the one with most of its keys."""
    if (by_files := _by_files(found)) is not None:
        return by_files
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
