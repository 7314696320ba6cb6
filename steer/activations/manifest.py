"""``manifest.json`` of a folder of activations: what they were read from, and which files hold them."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from steer.activations.sources.source import Position
from steer.errors import DataError
from steer.files import write_json

MANIFEST = "manifest.json"
VERSION = 1
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class Shard:
    """One file of activations."""

    file: str
    """Its name in the folder."""
    tokens: int
    """Rows of activations at each site."""
    bytes: int
    """Its size."""
    sha256: str
    """Hash of its contents."""


@dataclass(frozen=True, config=_STRICT)
class Manifest:
    """What a folder of activations holds."""

    model: str
    """What the model was loaded from."""
    revision: str | None
    """The hub's commit of the model, if it came from there."""
    source: str
    """What the text was opened from."""
    identity: dict[str, Any]
    """What the activations depend on: digests of weights, tokenizer and dataset, sites, token policy, batching."""
    dtype: str | None
    """Of the activations, for example ``float32``; None: nothing is written yet."""
    d_model: int
    """Width of the activations, in dimensions."""
    shard_tokens: int
    """Rows of every shard but the last."""
    max_tokens: int | None
    """Where reading was to stop; None: at the end of the text."""
    shards: tuple[Shard, ...]
    """The files, in the order of reading."""
    position: Position | None
    """Where reading goes on after the last of the shards; None: at the beginning."""
    complete: bool
    """Whether all shards are written."""
    version: int = VERSION
    """Of the format."""

    @property
    def tokens(self) -> int:
        """Rows of all shards."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def wanted(self) -> int:
        """Rows of the next shard, at most; 0 where ``max_tokens`` is reached."""
        rest = self.shard_tokens if self.max_tokens is None else self.max_tokens - self.tokens
        return min(self.shard_tokens, rest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    write_json(folder / MANIFEST, asdict(manifest))


def read_manifest(folder: Path) -> Manifest:
    """Read it.

    Raises:
        DataError: it is missing, of another version or damaged.
    """
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"No activations at {folder}: {MANIFEST} is missing. Write them with write_shards, or with "
            "`steer train --text FILE --shards FOLDER`."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}). Write the shards again.") from error
    if not isinstance(data, dict) or data.get("version") != VERSION:
        version = data.get("version") if isinstance(data, dict) else None
        raise DataError(f"{path} has version {version!r}, this release reads version {VERSION}.")
    try:
        return TypeAdapter(Manifest).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}, {place}: {first['msg']}. Write the shards again.") from error


def check_shard(folder: Path, shard: Shard, contents: bool) -> None:
    """See whether a shard's file is as long as it was, and with ``contents`` whether it is the same.

    Raises:
        DataError: it is missing, truncated or altered.
    """
    path = folder / shard.file
    remedy = f"Copy it again, or delete {folder} and write the shards again."
    try:
        size = path.stat().st_size
        if size != shard.bytes:
            raise DataError(f"The shard {path} has {size} bytes, expected {shard.bytes}: it was cut off. {remedy}")
        if not contents:
            return
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"The shard {path} cannot be read: {error.strerror or error}. {remedy}") from error
    if digest != shard.sha256:
        raise DataError(
            f"The shard {path} was altered: its sha256 is {digest[:16]}..., expected {shard.sha256[:16]}... {remedy}"
        )
