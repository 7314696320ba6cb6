"""Counts of ``steer index verify --whole``: density, histogram, positions, roles, documents, max and mean of latents,
computed again over the text of the index, whose rows say what the model reads together.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from saes import SAE
from steer.activations.reading import by_length
from steer.index.chunks import Corpus, Hits
from steer.index.config import POLICY, IndexConfig
from steer.index.counts import count_arrays, position_classes
from steer.index.layout import ROLES, corpus_file
from steer.index.read import FeatureIndex
from steer.index.shards import mapped
from steer.index.text_pass import Reader
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.progress import Progress

_COUNTS = ("hist", "pos_count", "role_count")
_ROWS = 64  # that are counted together
_FEW = 2  # tokens that may differ of any latent
_OVERALL = 0.005  # of all hits, that may differ: single latents may differ by more


@dataclass(frozen=True)
class Counts:
    """What is counted of each latent."""

    arrays: dict[str, np.ndarray]
    """``hist``, ``pos_count`` and ``role_count``, as an index has them."""
    total: np.ndarray
    """Sum of the activations."""
    largest: np.ndarray
    """The largest activation."""
    documents: np.ndarray
    """Documents that it fires in."""


def stored_corpus(index: FeatureIndex) -> Corpus:
    """The text of an index."""
    every = {
        name: mapped(corpus_file(index.folder, name)) for name in ("tokens", "roles", "counts", "rows", "documents")
    }
    counts = np.unpackbits(every["counts"], count=len(every["tokens"])).astype(bool)
    return Corpus(every["tokens"], every["roles"], counts, every["rows"][:-1], every["documents"][:-1])


@torch.inference_mode()
def counts_again(index: FeatureIndex, lm: LanguageModel, sae: SAE, show: Progress) -> Counts:
    """One pass of the model over all rows of an index; memory holds the counts and the hits of 64 rows.

    Raises:
        DataError: an activation is not finite, or the model is steered.
    """
    corpus, every = stored_corpus(index), range(index.d_sae)
    classes, bounds = position_classes(corpus), np.append(corpus.rows, len(corpus.tokens)).astype(np.int64)
    config = IndexConfig(policy=replace(POLICY, max_norm_ratio=None))  # the index says which tokens count
    reader = Reader(lm, sae, Site.parse(index.provenance["sae"]["site"]), config)
    size = index.d_sae
    arrays = {name: np.zeros_like(index.array(name).joined(), np.int64) for name in _COUNTS}
    found = Counts(arrays, np.zeros(size), np.zeros(size, np.float32), np.zeros(size, np.int64))
    last = np.full(size, -1)  # document in which each latent fired last
    with show.stage("counts", len(corpus.tokens)):
        for first in range(0, len(bounds) - 1, _ROWS):
            rows = range(first, min(first + _ROWS, len(bounds) - 1))
            hits = _hits(reader, corpus, bounds, rows, config.forward_tokens)
            for name, more in count_arrays(hits, every, corpus, classes, index.info.histogram_top).items():
                found.arrays[name][:] += more
            found.total[:] += np.bincount(hits.latents, weights=hits.values, minlength=size)
            np.maximum.at(found.largest, hits.latents, hits.values)
            document = np.searchsorted(corpus.documents, hits.places, side="right") - 1
            latents, documents = np.unique(np.stack([hits.latents, document]), axis=1)
            found.documents[:] += np.bincount(latents[documents != last[latents]], minlength=size)
            np.maximum.at(last, latents, documents)
            show.advance(int(bounds[rows.stop] - bounds[rows.start]))
    return found


def _hits(reader: Reader, corpus: Corpus, bounds: np.ndarray, rows: range, forward_tokens: int) -> Hits:
    ids = [corpus.tokens[bounds[row] : bounds[row + 1]].astype(np.int64).tolist() for row in rows]
    first = int(bounds[rows.start])
    counts = corpus.counts[first : bounds[rows.stop]].copy()
    starts = bounds[rows.start : rows.stop]
    live = [number for number, row in enumerate(rows) if corpus.counts[bounds[row] : bounds[row + 1]].any()]
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
    for batch in by_length([len(ids[number]) for number in live], forward_tokens):
        chosen = [live[i] for i in batch]
        parts.append(reader.hits([ids[number] for number in chosen], starts[chosen], counts, first))
    return Hits(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def count_differences(index: FeatureIndex, now: Counts, share: float, close: float) -> list[str]:
    """What differs from the index by more than ``share`` of a latent's tokens, or ``close`` of its maximum.

    Near a tie for the k-th place rounding decides who is active, and near an edge of the histogram in which bin, so
    histograms are compared by their sums up to each bin.
    """
    then = {name: index.array(name).joined().astype(np.int64) for name in _COUNTS}
    tokens = then["hist"].sum(1)
    slack = np.maximum(_FEW, share * tokens)
    largest, counted_tokens = np.asarray(index.columns["max"], np.float64), index.info.counted
    with np.errstate(invalid="ignore"):
        total = np.where(tokens > 0, index.columns["mean"] * np.float64(tokens), 0.0)
    by_name = {
        "density": np.abs(index.columns["density"] * np.float64(counted_tokens) - now.arrays["hist"].sum(1)) > slack,
        "histogram": np.abs((then["hist"] - now.arrays["hist"]).cumsum(1)).max(1) > slack,
        "counts by position": np.abs(then["pos_count"] - now.arrays["pos_count"]).max(1) > slack,
        "counts by role": np.abs(then["role_count"] - now.arrays["role_count"]).max(1) > slack,
        "max": np.abs(largest - now.largest) > close * np.maximum(largest, now.largest),
        "mean": np.abs(total - now.total) > (slack + close * tokens) * np.maximum(largest, now.largest),
        "documents": np.abs(index.columns["documents"] * np.float64(index.info.documents) - now.documents) > slack,
    }
    found = [
        f"the {name} of {differs.sum():,} latents differs, of latent {int(differs.argmax())} first"
        for name, differs in by_name.items()
        if differs.any()
    ]
    changed = int(np.abs(tokens - now.arrays["hist"].sum(1)).sum())
    if changed > max(_FEW, max(_OVERALL, share / 4) * tokens.sum()):
        found.append(f"{changed:,} of {int(tokens.sum()):,} active tokens of all latents are no more, or are new")
    return found


def inconsistent_columns(index: FeatureIndex) -> list[str]:
    """Columns that say something else than the arrays, whose files have hashes. Needs no model."""
    tokens = index.array("role_count").joined().astype(np.float64)
    maxima = index.array("ex_max").joined().max(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = {"density": tokens.sum(1) / index.info.counted, "max": maxima} | {
            f"density_{role}": tokens[:, i] / index.info.role_counts[i] for i, role in enumerate(ROLES)
        }
    return [
        f"the column {name} does not fit the counts that the index holds"
        for name, values in expected.items()
        if name not in index.columns or not np.allclose(index.columns[name], values, rtol=1e-5, atol=0, equal_nan=True)
    ]
