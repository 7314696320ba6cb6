"""Activations on disk: read once from the model, trained on many times. Stopped at any moment, writing goes on."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save as to_bytes
from torch import Tensor

from steer.activations.ahead import Ahead
from steer.activations.identity import identity, require_same, revision
from steer.activations.manifest import (
    MANIFEST,
    Manifest,
    Shard,
    check_shard,
    read_manifest,
    write_manifest,
)
from steer.activations.reading import START, Reading, blocks
from steer.activations.sources.source import Source
from steer.activations.tap import Tap
from steer.checks import require_whole
from steer.errors import DataError
from steer.files import claimed, write_bytes
from steer.models.model import LanguageModel


@dataclass(frozen=True)
class ShardConfig:
    """How activations are cut into files."""

    shard_tokens: int = 65_536
    """Tokens of a file (it is in memory twice while it is written)."""
    max_tokens: int | None = None
    """Stop after so many tokens; None: at the end of the text."""
    ahead: int = 2
    """Model passes that a background thread makes in advance; 0: no thread."""

    def __post_init__(self) -> None:
        require_whole("shard_tokens", self.shard_tokens, DataError)
        require_whole("ahead", self.ahead, DataError, least=0)
        if self.max_tokens is not None:
            require_whole("max_tokens", self.max_tokens, DataError)


def write_shards(
    lm: LanguageModel,
    source: Source,
    reading: Reading,
    folder: str | Path,
    config: ShardConfig = ShardConfig(),
    on_shard: Callable[[Manifest], None] | None = None,
) -> Manifest:
    """Read a source once and write its activations to ``folder``, in the model's dtype and in the order of reading.

    A folder that holds a part of the same is continued: shards that are whole are kept, and the result is the same as
    without the interruption. ``on_shard`` is told after each file.

    Raises:
        DataError: the source cannot be read, no token of it counts, or the folder holds something else; the message
            names the field or the file.
        OutputError: the folder cannot be written to, or another run writes to it.
        SiteError: the model lacks a site.
    """
    if lm.attachments:
        raise DataError("The model is steered, which the shards would not tell. Write them outside of that block.")
    folder = Path(folder)
    new = Manifest(
        model=lm.name,
        revision=revision(lm),
        source=source.name,
        identity=identity(lm, source, reading),
        dtype=None,
        d_model=lm.d_model,
        shard_tokens=config.shard_tokens,
        max_tokens=config.max_tokens,
        shards=(),
        position=None,
        complete=False,
    )
    with claimed(folder):
        manifest = _continued(folder, new)
        make = partial(
            blocks, lm, source, reading, manifest.position["before"] if manifest.position else START, endless=False
        )
        ahead = Ahead(lambda stop: make(stop=stop), config.ahead) if config.ahead else None
        try:
            rows = Tap(ahead or make(), manifest.position)
            while not manifest.complete:
                manifest = _grown(manifest, folder, rows, reading)
                write_manifest(folder, manifest)
                if on_shard:
                    on_shard(manifest)
        finally:
            if ahead:
                ahead.close()
    return manifest


def _continued(folder: Path, new: Manifest) -> Manifest:
    """The manifest in the folder, if it is a part of the same; else the new one."""
    if not (folder / MANIFEST).exists():
        return new
    found = read_manifest(folder)
    settings = {"shard_tokens": new.shard_tokens, "max_tokens": new.max_tokens}
    require_same({**found.identity, **asdict(found)}, {**new.identity, **settings}, f"What is in {folder}")
    for shard in found.shards:
        check_shard(folder, shard, contents=False)
    return found


def _grown(manifest: Manifest, folder: Path, rows: Tap, reading: Reading) -> Manifest:
    """The manifest with one more shard, which is written, or complete."""
    taken = _gathered(rows, manifest.wanted)
    if taken is None:
        return replace(manifest, complete=True)
    file = f"shard-{len(manifest.shards):06d}.safetensors"
    data = to_bytes({str(site): x for site, x in zip(reading.all_sites, taken, strict=True)})
    write_bytes(folder / file, data)
    shard = Shard(file, taken.shape[1], len(data), hashlib.sha256(data).hexdigest())
    dtype = str(taken.dtype).removeprefix("torch.")
    return replace(manifest, shards=(*manifest.shards, shard), dtype=dtype, position=rows.position)


def _gathered(rows: Tap, count: int) -> Float[Tensor, "site token d_model"] | None:
    """The next ``count`` rows, or all that are left, on the CPU; None where there are none."""
    parts, missing = [], count
    while missing and (part := rows.take(missing)) is not None:
        parts.append(part.cpu())
        missing -= part.shape[1]
    return torch.cat(parts, dim=1) if parts else None
