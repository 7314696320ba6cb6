"""How often a latent fires, how strongly, and where."""

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from steer.index.chunks import Corpus, Hits
from steer.index.examples import Chosen, Peaks
from steer.index.layout import BINS, BINS_PER_OCTAVE, POSITIONS, ROLES, TOP


def position_classes(corpus: Corpus) -> Shaped[np.ndarray, " token"]:
    """For each token, the class of its place in its row: 0, 1, 2-3, 4-7, ..."""
    lengths = np.diff(np.append(corpus.rows, len(corpus.tokens)))
    place = np.arange(len(corpus.tokens)) - np.repeat(corpus.rows, lengths)
    return np.minimum(np.frexp(place.astype(np.float64))[1], POSITIONS - 1).astype(np.uint8)


def histogram_top(largest: float) -> float:
    """The upper end of the histogram: the power of two that is not below the largest activation of all."""
    return float(2.0 ** np.ceil(np.log2(largest)))


def count_arrays(
    hits: Hits, latents: range, corpus: Corpus, classes: Shaped[np.ndarray, " token"], top: float
) -> dict[str, np.ndarray]:
    """The arrays ``hist``, ``pos_count`` and ``role_count`` of a block of latents."""
    below = np.log2(hits.values.astype(np.float64) / top) * BINS_PER_OCTAVE
    each = {
        "hist": (np.clip(np.floor(below) + BINS, 0, BINS - 1).astype(np.int64), BINS),
        "pos_count": (classes[hits.places].astype(np.int64), POSITIONS),
        "role_count": (corpus.roles[hits.places].astype(np.int64), len(ROLES)),
    }
    number = hits.latents - latents.start
    return {
        name: np.bincount(number * size + which, minlength=len(latents) * size).reshape(len(latents), size)
        for name, (which, size) in each.items()
    }


def column_arrays(
    hits: Hits,
    latents: range,
    peaks: Peaks,
    picked: Chosen,
    corpus: Corpus,
    role_count: Int64[np.ndarray, "block role"],
) -> dict[str, Float64[np.ndarray, " block"]]:
    """The columns of a block of latents; what a latent that never fires has none of is NaN."""
    number, size = hits.latents - latents.start, len(latents)
    fired = np.bincount(number, minlength=size)
    total = np.bincount(number, weights=hits.values, minlength=size)
    largest = np.zeros(size, dtype=np.float32)
    np.maximum.at(largest, number, hits.values)
    strong = picked.stratum == TOP
    at = picked.peaks.latents[strong] - latents.start
    tokens = corpus.tokens[picked.peaks.places[strong]].astype(np.int64)
    different = np.unique(np.stack([at, tokens]), axis=1)[0]
    counted = corpus.counts.astype(bool)
    by_role = np.bincount(corpus.roles[counted], minlength=len(ROLES))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {
            "density": fired / counted.sum(),
            "max": largest.astype(np.float64),
            "mean": total / fired,
            "documents": np.bincount(peaks.latents - latents.start, minlength=size) / len(corpus.documents),
            "peak_tokens": np.bincount(different, minlength=size).astype(np.float64),
        }
        shares = {f"density_{role}": role_count[:, i] / by_role[i] for i, role in enumerate(ROLES)}
    return found | shares
