"""``index.json``: what an index was made of, and its files with their hashes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from saes import SAE
from steer.activations.identity import tokenizer_digest, weights_digest
from steer.errors import DataError, IndexMismatchError
from steer.files import write_bytes, write_json
from steer.index.layout import INFO, POSITIONS, ROLES, Sizes, arrays, shard_file
from steer.models.model import LanguageModel
from steer.plans.digests import of_sae

VERSION = 1
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class File:
    """One file of an index."""

    bytes: int
    """Its size."""
    sha256: str
    """Hash of its contents."""


@dataclass(frozen=True, config=_STRICT)
class IndexInfo:
    """What an index holds, and what it was made of."""

    d_sae: int
    """Latents."""
    examples: int
    """Examples of a latent, at most."""
    window: int
    """Tokens of an example, at most."""
    shard_latents: int
    """Latents of one file."""
    tokens: int
    """Tokens of the corpus, those that do not count among them."""
    counted: int
    """Tokens that count: densities are fractions of these."""
    documents: int
    """Documents of the corpus."""
    vocabulary: int
    """Number of the model's tokens."""
    histogram_top: float
    """Upper end of the histogram's last bin, an activation."""
    position_counts: tuple[int, ...]
    """Tokens that count in each class of positions."""
    role_counts: tuple[int, ...]
    """Tokens that count of each role."""
    provenance: dict[str, Any]
    """Digests and names of SAE, model, tokenizer and dataset, site, token policy, and how the rest was computed."""
    files: dict[str, File]
    """Files that never change, by path in the index."""
    version: int = VERSION
    """Of the format."""

    @property
    def sizes(self) -> Sizes:
        """Of the arrays."""
        return Sizes(self.d_sae, self.examples, self.window, self.shard_latents)


def write_info(folder: Path, info: IndexInfo) -> None:
    """Write it, atomically. It is written last: a folder without it is no index.

    Raises:
        OutputError: it cannot be written.
    """
    write_json(folder / INFO, asdict(info))


def read_info(folder: Path) -> IndexInfo:
    """Read it.

    Raises:
        DataError: it is missing, of another version or damaged.
    """
    path = folder / INFO
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"No index at {folder}: {INFO} is missing. Build one with `steer index build MODEL SAE --out {folder}`; "
            "one that was interrupted goes on with the same command."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}). Build the index again.") from error
    if not isinstance(data, dict) or data.get("version") != VERSION:
        version = data.get("version") if isinstance(data, dict) else None
        raise DataError(f"{path} has version {version!r}, this release reads version {VERSION}. Build the index again.")
    try:
        info = TypeAdapter(IndexInfo).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}, {place}: {first['msg']}. Build the index again.") from error
    if wrong := _misfit(info):
        raise DataError(f"{path}, {wrong}. Build the index again.")
    return info


_PROVENANCE = {"sae": dict, "model": dict, "policy": dict, "identity": dict, "dataset": dict, "rendering": str}
"""Types of what is read of the provenance, where it is there."""


def _misfit(info: IndexInfo) -> str | None:
    """What does not go with the rest, as where the file was edited by hand; None: all does."""
    for name, names in (("position_counts", POSITIONS), ("role_counts", len(ROLES))):
        if (got := len(getattr(info, name))) != names:
            return f"{name}: expected {names} numbers, got {got}"
    if not (isfinite(info.histogram_top) and info.histogram_top >= 0):
        return f"histogram_top: expected a finite activation, got {info.histogram_top}"
    for name, kind in _PROVENANCE.items():
        if not isinstance(info.provenance.get(name, kind()), kind):
            return f"provenance.{name}: expected a {kind.__name__}, got {info.provenance[name]!r:.40}"
    sizes = info.sizes
    if info.d_sae > info.shard_latents * len(info.files):  # before all of its files are named
        return f"d_sae: {info.d_sae} latents do not lie in the {len(info.files)} files that it lists"
    every = (shard_file(name, shard) for shard in sizes.shards for name in arrays(sizes))
    if missing := next((name for name in every if name not in info.files), None):
        return f"files: {missing} is not listed"
    return None


def write_array(folder: Path, name: str, values: np.ndarray) -> File:
    """Write an array as a file of the index, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    buffer = BytesIO()
    np.save(buffer, np.ascontiguousarray(values), allow_pickle=False)
    data = buffer.getvalue()
    write_bytes(folder / name, data)
    return File(len(data), hashlib.sha256(data).hexdigest())


def check_files(folder: Path, files: Mapping[str, File], contents: bool) -> None:
    """See whether all files are as long as they were, and with ``contents`` whether they are the same.

    Raises:
        DataError: one is missing, truncated or altered; the message names it.
    """
    for name, file in files.items():
        path, remedy = folder / name, "Copy the index again, or build it again."
        try:
            size = path.stat().st_size
            if size != file.bytes:
                raise DataError(f"{path} has {size} bytes, expected {file.bytes}: it was cut off. {remedy}")
            if not contents:
                continue
            with path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}. {remedy}") from error
        if digest != file.sha256:
            raise DataError(
                f"{path} was altered: its sha256 is {digest[:16]}..., expected {file.sha256[:16]}... {remedy}"
            )


def check_sae(info: IndexInfo, sae: SAE, where: Path) -> None:
    """Raise IndexMismatchError unless the index was made of this SAE. Reads all of its weights once."""
    if sae.config.d_sae != info.d_sae:
        raise IndexMismatchError(
            f"The index {where} is of an SAE of {info.d_sae} latents, but this one has {sae.config.d_sae}. "
            "Use the SAE that it was built with, or build an index for this one."
        )
    _same(where, "SAE", info.provenance.get("sae", {}).get("digest"), of_sae(sae))


def check_model(info: IndexInfo, lm: LanguageModel, where: Path) -> None:
    """Raise IndexMismatchError unless the index was made with this model and tokenizer."""
    _same(where, "model", info.provenance.get("model", {}).get("weights"), weights_digest(lm))
    _same(where, "tokenizer", info.provenance.get("tokenizer"), tokenizer_digest(lm))


def _same(where: Path, what: str, stored: object, given: str) -> None:
    if stored != given:
        told = f"{stored[:16]}..." if isinstance(stored, str) else "not known"
        raise IndexMismatchError(
            f"The index {where} was built with another {what}: its digest is {told}, this one's {given[:16]}... "
            f"Use the {what} that it was built with, or build an index for this one."
        )
