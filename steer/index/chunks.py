"""What the pass over the text leaves on disk: which latents are active where, sorted by latent, a file at a time.

A file is written once and whole, and names the place in the text after it, so a build that is killed goes on from the
last of them. The rest of an index is computed from these files, and they are removed at its end.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass
from safetensors import safe_open
from safetensors.numpy import save

from steer.activations.sources.source import Position
from steer.errors import DataError
from steer.files import write_bytes, write_json, writing
from steer.index.info import File
from steer.index.leftovers import BUILDING

STATE = "state.json"
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Hits:
    """Active latents of tokens, sorted by latent and then by place."""

    latents: Int64[np.ndarray, " hit"]
    places: Int64[np.ndarray, " hit"]
    """Of the tokens in the corpus."""
    values: Float32[np.ndarray, " hit"]
    """Activations, all positive."""

    def sorted(self) -> "Hits":
        """The same in order."""
        first = int(self.places.min(initial=0))
        span = int(self.places.max(initial=0)) - first + 1
        order = np.argsort(self.latents * span + (self.places - first), kind="stable")
        return Hits(self.latents[order], self.places[order], self.values[order])


@dataclass(frozen=True)
class Corpus:
    """The tokens that were read."""

    tokens: Shaped[np.ndarray, " token"]
    roles: Shaped[np.ndarray, " token"]
    """Numbers in ``layout.ROLES``."""
    counts: Shaped[np.ndarray, " token"]
    """Whether each counts."""
    rows: Shaped[np.ndarray, " row"]
    """Places in the corpus at which rows begin."""
    documents: Shaped[np.ndarray, " document"]
    """Places at which documents begin."""


@checked_dataclass(frozen=True, config=_STRICT)
class Chunk:
    """One file of hits."""

    file: str
    first: int
    """Place in the corpus of its first token."""
    tokens: int
    hits: int
    largest: float
    """Largest activation."""
    position: Position
    """Where reading goes on after it."""


@checked_dataclass(frozen=True, config=_STRICT)
class State:
    """How far a build is."""

    identity: dict[str, Any]
    """What it depends on."""
    chunks: tuple[Chunk, ...] = ()
    medians: float | None = None
    """Median norm of the first pass, where outliers are left out."""
    read: bool = False
    """Whether all of the text is."""
    files: dict[str, File] | None = None
    """Finished files of the index."""

    @property
    def tokens(self) -> int:
        """Tokens read so far."""
        return sum(chunk.tokens for chunk in self.chunks)


def read_state(folder: Path) -> State | None:
    """The state of the build in ``folder``; None where none is under way.

    Raises:
        DataError: it is damaged.
    """
    path = folder / BUILDING / STATE
    try:
        return TypeAdapter(State).validate_python(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise DataError(f"{path} cannot be read ({reason}). Delete {folder / BUILDING} to begin anew.") from error


def write_state(folder: Path, state: State) -> None:
    """Write it, atomically."""
    write_json(folder / BUILDING / STATE, asdict(state))


def add_chunk(folder: Path, state: State, hits: Hits, corpus: Corpus, d_sae: int, position: Position) -> State:
    """Write one more file, then the state that names it."""
    ordered = hits.sorted()
    offsets = np.searchsorted(ordered.latents, np.arange(d_sae + 1)).astype(np.int64)
    data = save(
        {
            "offsets": offsets,
            "places": ordered.places.astype(np.uint32),
            "values": ordered.values,
            "tokens": corpus.tokens.astype(np.uint32),
            "roles": corpus.roles.astype(np.uint8),
            "counts": corpus.counts.astype(np.uint8),
            "rows": corpus.rows.astype(np.int64),
            "documents": corpus.documents.astype(np.int64),
        }
    )
    file = f"chunk-{len(state.chunks):06d}.safetensors"
    write_bytes(folder / BUILDING / file, data)
    largest = float(ordered.values.max(initial=0.0))
    chunk = Chunk(file, state.tokens, len(corpus.tokens), len(ordered.values), largest, position)
    state = replace(state, chunks=(*state.chunks, chunk))
    write_state(folder, state)
    return state


class Chunks:
    """The files of a build, open for reading."""

    def __init__(self, folder: Path, state: State) -> None:
        self._folder = folder / BUILDING
        self._chunks = state.chunks
        self._offsets = [self._of(chunk, "offsets") for chunk in state.chunks]

    @property
    def totals(self) -> Int64[np.ndarray, " d_sae"]:
        """Hits of each latent."""
        return np.asarray(np.sum([np.diff(offsets) for offsets in self._offsets], axis=0, dtype=np.int64))

    @property
    def largest(self) -> float:
        """Largest activation of all; 0 where nothing fires."""
        return max((chunk.largest for chunk in self._chunks), default=0.0)

    def corpus(self) -> Corpus:
        """All tokens."""
        parts = {
            name: np.concatenate([self._of(chunk, name) for chunk in self._chunks])
            for name in ("tokens", "roles", "counts", "rows", "documents")
        }
        return Corpus(**parts)

    def hits(self, latents: range) -> Hits:
        """All hits of some latents, in order."""
        numbers, places, values = [], [], []
        for chunk, offsets in zip(self._chunks, self._offsets, strict=True):
            first, last = int(offsets[latents.start]), int(offsets[latents.stop])
            if first == last:
                continue
            with self._opened(chunk) as file:
                places.append(file.get_slice("places")[first:last].astype(np.int64))
                values.append(file.get_slice("values")[first:last])
            each = np.diff(offsets[latents.start : latents.stop + 1])
            numbers.append(np.repeat(np.arange(latents.start, latents.stop), each))
        if not numbers:
            return Hits(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
        every = np.concatenate(numbers)
        order = np.argsort(every, kind="stable")  # the files follow each other in the corpus
        return Hits(every[order], np.concatenate(places)[order], np.concatenate(values)[order])

    def blocks(self, latents: range, most: int) -> Iterator[range]:
        """Parts of a range of latents that have at most ``most`` hits each, or are one latent."""
        totals, first, held = self.totals, latents.start, 0
        for latent in latents:
            if latent > first and held + totals[latent] > most:
                yield range(first, latent)
                first, held = latent, 0
            held += int(totals[latent])
        if first < latents.stop:
            yield range(first, latents.stop)

    def each(
        self, taken: Callable[[Int64[np.ndarray, " hit"]], Bool[np.ndarray, " hit"]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Latents and places of the hits on tokens whose places are ``taken``, a file at a time."""
        for chunk, offsets in zip(self._chunks, self._offsets, strict=True):
            places = self._of(chunk, "places").astype(np.int64)
            latents = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
            kept = taken(places)
            yield latents[kept], places[kept]

    def _of(self, chunk: Chunk, name: str) -> np.ndarray:
        with self._opened(chunk) as file:
            return file.get_tensor(name)

    def _opened(self, chunk: Chunk) -> Any:
        path = self._folder / chunk.file
        try:
            return safe_open(path, framework="np")
        except (OSError, Exception) as error:  # safetensors has an error of its own
            raise DataError(f"{path} cannot be read ({error}). Delete {self._folder} to begin anew.") from error


def remove_building(folder: Path) -> None:
    """Remove what a build that is done leaves. The state goes first: a kill meanwhile leaves nothing to go on with."""
    with writing(folder / BUILDING):
        (folder / BUILDING / STATE).unlink(missing_ok=True)
        if (folder / BUILDING).is_dir():
            shutil.rmtree(folder / BUILDING)
