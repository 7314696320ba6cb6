"""Names, shapes and sizes of an index's files. ``docs/index.md`` shows the folder.

Token ids are stored, never strings; a latent's examples are places in the corpus with their activations in 8 bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from steer.checks import require_whole
from steer.errors import DataError

INFO = "index.json"
META = "meta.sqlite"
USER = "user.sqlite"
CORPUS, LATENTS, COLUMNS = "corpus", "latents", "columns"

NONE_ID = 2**32 - 1
"""In arrays of ids: no entry."""
BINS = 64
"""Of the histogram of activations, ``BINS_PER_OCTAVE`` to a doubling; the last ends at ``IndexInfo.histogram_top``."""
BINS_PER_OCTAVE = 4
STRATA = 5
"""By how far an example's peak is below its latent's maximum: a doubling each, the last one holds all that is below."""
EMPTY, TOP = 0, 1
"""Values of ``ex_stratum`` besides the strata, which are ``TOP + 1`` and on."""
LOGITS = 20
"""Tokens kept of those that a latent promotes, and as many of those that it suppresses."""
NEIGHBOURS = 32
"""Latents kept of each kind of neighbour."""
POSITIONS = 16
"""Classes of positions in a row: 0, 1, 2-3, 4-7, ..., the last one open."""
ROLES = ("system", "user", "assistant", "template", "text")
"""Whose words a token holds; ``template``: what the chat template adds; ``text``: of a document, no conversation."""


@dataclass(frozen=True)
class Sizes:
    """What decides the shapes of an index's arrays."""

    d_sae: int
    """Latents."""
    examples: int = 45
    """Examples of a latent, at most."""
    window: int = 64
    """Tokens of an example, at most."""
    shard_latents: int = 32_768
    """Latents of one file."""

    def __post_init__(self) -> None:
        for name in ("d_sae", "shard_latents"):
            require_whole(name, getattr(self, name), DataError)
        require_whole("examples", self.examples, DataError, least=2)
        require_whole("window", self.window, DataError, least=2)
        if self.window > 255 or self.examples > 1000:
            raise DataError(
                f"An index has windows of at most 255 tokens and at most 1,000 examples of a latent, got {self.window} "
                f"and {self.examples}. Lower --window or --examples."
            )

    @property
    def top(self) -> int:
        """Examples that are the strongest; the others are samples of the strata."""
        return max(1, self.examples * 4 // 9)

    @property
    def shards(self) -> list[range]:
        """The latents of each file."""
        return [
            range(first, min(first + self.shard_latents, self.d_sae))
            for first in range(0, self.d_sae, self.shard_latents)
        ]


@dataclass(frozen=True)
class Array:
    """One array by latent, of shape [d_sae, *shape]."""

    dtype: str
    shape: tuple[int, ...]
    about: str


def arrays(sizes: Sizes) -> Mapping[str, Array]:
    """The arrays of ``latents/`` by name."""
    n, w = sizes.examples, sizes.window
    return {
        "ex_off": Array("uint32", (n,), "place in the corpus of the window's first token"),
        "ex_len": Array("uint8", (n,), "tokens of the window; 0: no example"),
        "ex_peak": Array("uint8", (n,), "place in the window of the strongest token"),
        "ex_max": Array("float32", (n,), "activation there"),
        "ex_stratum": Array("uint8", (n,), "1: among the strongest; 2 and on: a sample, by doublings below the max"),
        "ex_act": Array("uint8", (n, w), "activations of the window's tokens, in units of ex_scale"),
        "ex_scale": Array("float32", (), "activation that one step of ex_act stands for"),
        "hist": Array("uint32", (BINS,), "tokens by log-activation"),
        "pos_count": Array("uint32", (POSITIONS,), "tokens that it is active on, by position in the row"),
        "role_count": Array("uint32", (len(ROLES),), "the same by role"),
        "logit_id": Array("uint32", (2 * LOGITS,), "tokens promoted, strongest first, then suppressed"),
        "logit_v": Array("float16", (2 * LOGITS,), "logit of each per unit of the decoder's row"),
        "coact_id": Array("uint32", (NEIGHBOURS,), "latents that fire on the same tokens"),
        "coact_v": Array("float16", (NEIGHBOURS,), "cosine of the 0/1 vectors of where both fire"),
        "decnn_id": Array("uint32", (NEIGHBOURS,), "latents whose decoder rows point the same way"),
        "decnn_v": Array("float16", (NEIGHBOURS,), "cosine of the decoder rows"),
    }


BUILT_COLUMNS = ("density", "max", "mean", "documents", "peak_tokens")
"""Columns that every index has; docs/index.md says what they are."""

_TEXT_BYTES = 500  # a latent's words in meta.sqlite with their index, measured on synthetic text
_ITEM = {"uint8": 1, "float16": 2, "uint32": 4, "float32": 4}


def bytes_per_latent(sizes: Sizes) -> int:
    """Bytes of a latent in the arrays: ``N (W + 11) + 968`` at N examples of W tokens."""
    total = 0
    for array in arrays(sizes).values():
        count = 1
        for side in array.shape:
            count *= side
        total += count * _ITEM[array.dtype]
    return total


def index_bytes(sizes: Sizes, tokens: int, vocabulary: int, columns: int = len(BUILT_COLUMNS) + len(ROLES)) -> int:
    """Bytes of a whole index: arrays, columns, words, 2 or 4 bytes and 9 bits a token of the corpus, the vocabulary."""
    per_latent = bytes_per_latent(sizes) + 4 * columns + _TEXT_BYTES
    return sizes.d_sae * per_latent + tokens * (token_bytes(vocabulary) + 1) + tokens // 8 + 12 * vocabulary


def token_bytes(vocabulary: int) -> int:
    """Bytes of a token id: 2 where the vocabulary fits, else 4."""
    return 2 if vocabulary <= 2**16 else 4


def shard_file(name: str, shard: range) -> str:
    """Path in the index of an array's file."""
    return f"{LATENTS}/{name}.{shard.start:08d}.npy"


def corpus_file(folder: Path, name: str) -> Path:
    """Path of an array of the corpus: ``tokens``, ``roles``, ``counts``, ``rows``, ``documents``, ``vocabulary``."""
    return folder / CORPUS / f"{name}.npy"


def histogram_edges(top: float) -> Float32[np.ndarray, " edge"]:
    """Limits of the histogram's bins: ``top`` is the upper end of the last, and each bin is 2^(1/4) wide."""
    return (top * 2.0 ** ((np.arange(BINS + 1) - BINS) / BINS_PER_OCTAVE)).astype(np.float32)


def position_names() -> list[str]:
    """Names of the classes of positions: ``0``, ``1``, ``2-3``, ``4-7``, ... and an open one."""
    names = ["0", "1", *(f"{2**k}-{2 ** (k + 1) - 1}" for k in range(1, POSITIONS - 2))]
    return [*names, f"{2 ** (POSITIONS - 2)}-"]


def check_latent(latent: int, d_sae: int, of: str = "index") -> None:
    """Raise DataError unless ``latent`` is one of ``d_sae`` latents, from 0; ``of``: what has them, for the message."""
    require_whole("latent", latent, DataError, least=0)
    if latent >= d_sae:
        raise DataError(f"Latent {latent} is out of range: the {of} has latents 0 to {d_sae - 1}.")
