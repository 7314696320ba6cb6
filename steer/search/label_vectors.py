"""Vectors of labels, kept beside the index so that each label is read by an embedder once.

A file for each embedder, ``label_vectors/DIGEST.safetensors``: ``texts`` [label, 16], the first bytes of the SHA-256 of
each text, and ``vectors`` [label, width] in float32. Vectors are looked up by embedder and text, so labels may come and
go: those of new texts are added, and no vector is ever taken for another's.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load, save

from steer.errors import OutputError
from steer.files import claimed, write_bytes
from steer.search.meaning import Embedder

FOLDER = "label_vectors"
_BYTES = 16  # of a text's hash


@dataclass(frozen=True)
class LabelVectors:
    """The vectors of some texts, and how they were come by."""

    vectors: Float[np.ndarray, "label width"]
    computed: int
    """Of how many texts; the others were kept."""
    note: str | None = None
    """Why they could not be kept, if so."""


def label_vectors(embed: Embedder, texts: Sequence[str], folder: Path | None) -> LabelVectors:
    """The vectors of texts, from the files in an index's ``folder`` as far as they are there; None: nothing is kept.

    A file that is damaged is computed and written again. Kept vectors are those that were computed; a batch of other
    texts may change the last bits of a vector (1e-6), no more.
    """
    if folder is None:
        return LabelVectors(embed(texts), len(texts))
    path = folder / FOLDER / f"{embed.digest}.safetensors"
    hashes = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:_BYTES] for text in texts]
    known, kept = _read(path)
    missing = list({one: place for place, one in enumerate(hashes) if one not in known}.values())
    if not missing:
        return LabelVectors(kept[[known[one] for one in hashes]], 0)
    new = embed([texts[place] for place in missing]).astype(np.float32)
    every = np.concatenate([kept, new]) if len(kept) else new
    known |= {hashes[place]: len(kept) + number for number, place in enumerate(missing)}
    return LabelVectors(every[[known[one] for one in hashes]], len(missing), _write(path, known, every))


def _read(path: Path) -> tuple[dict[bytes, int], Float[np.ndarray, "label width"]]:
    """Where each text's vector is; nothing where the file is absent or damaged."""
    try:
        held = load(path.read_bytes())
        texts, vectors = held["texts"], held["vectors"]
        if texts.shape != (len(vectors), _BYTES) or vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise ValueError("its arrays do not belong together")
    except (OSError, SafetensorError, KeyError, ValueError):
        return {}, np.zeros((0, 0), dtype=np.float32)
    raw = texts.tobytes()
    return {raw[_BYTES * row : _BYTES * (row + 1)]: row for row in range(len(texts))}, vectors


def _write(path: Path, known: dict[bytes, int], vectors: Float[np.ndarray, "label width"]) -> str | None:
    """Keep them; where that cannot be, or another process is at it, say so: the search has its answer without."""
    rows = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(len(known), _BYTES)  # in the order of the rows
    data = save({"texts": np.ascontiguousarray(rows), "vectors": np.ascontiguousarray(vectors)})
    try:
        with claimed(path.parent):
            write_bytes(path, data)
    except OutputError as error:
        return f"the labels' vectors were not kept, and are computed again next time: {error}"
    return None
