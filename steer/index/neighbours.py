"""Latents that are like a latent: by what they write (decoder rows), and by where they fire (co-activation)."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from scipy.sparse import csr_matrix
from torch import Tensor

from steer.index.examples import mixed
from steer.index.layout import NEIGHBOURS, NONE_ID
from steer.search.direction import BLOCK_ROWS, row_norms

_MOST = 2**25  # cosines held at once
_PAIRS = 2**23  # counts held at once, about


def similar(
    decoder: Float[Tensor, "d_sae d_model"], latents: range, norms: Float[Tensor, " d_sae"] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and cosines, [latents, NEIGHBOURS], of the latents whose decoder rows have the largest cosine."""
    norms = row_norms(decoder) if norms is None else norms
    size, most = len(decoder), min(NEIGHBOURS, len(decoder) - 1)
    ids = np.full((len(latents), NEIGHBOURS), NONE_ID, dtype=np.uint32)
    values = np.zeros((len(latents), NEIGHBOURS), dtype=np.float32)
    if not most:
        return ids, values
    safe = norms.clamp(min=torch.finfo(torch.float32).tiny)
    for first in range(latents.start, latents.stop, max(1, _MOST // size)):
        rows = range(first, min(first + max(1, _MOST // size), latents.stop))
        own = decoder.detach()[rows.start : rows.stop].float() / safe[rows.start : rows.stop, None]
        parts = zip(decoder.detach().split(BLOCK_ROWS), safe.split(BLOCK_ROWS), strict=True)
        cosines = torch.cat([own @ (part.float() / norm[:, None]).T for part, norm in parts], dim=1)
        cosines[torch.arange(len(rows)), torch.arange(rows.start, rows.stop)] = -2.0
        found = cosines.topk(most)
        place = slice(first - latents.start, first - latents.start + len(rows))
        ids[place, :most] = found.indices.cpu().numpy()
        values[place, :most] = found.values.cpu().numpy()
    return ids, values


def sampled(places: Int64[np.ndarray, " n"], one_in: int) -> Bool[np.ndarray, " n"]:
    """Which tokens of the corpus are counted where it is one in so many: by a hash, so that no place in a row is
    favoured, as it would be by every so many-th token of rows of one length.
    """
    return np.asarray(mixed(places.astype(np.uint64)) % np.uint64(one_in) == 0)


class CoActivation:
    """Which latents fire on the same tokens, counted exactly on the tokens that are given."""

    def __init__(self, parts: Iterable[tuple[np.ndarray, np.ndarray]], d_sae: int, tokens: int) -> None:
        """``parts``: latents and places of hits, with ``tokens`` places in all."""
        small = np.int32 if max(d_sae, tokens) < 2**31 else np.int64
        both = [np.stack(part).astype(small) for part in parts]
        every, where = np.concatenate(both, axis=1)
        both.clear()
        ones = np.ones(len(every), dtype=np.int32)  # exact, unlike float32 beyond 2^24 tokens
        self._fires = csr_matrix((ones, (every, where)), shape=(d_sae, tokens))
        self._by_token = self._fires.T.tocsr()
        self.fired: Float64[np.ndarray, " d_sae"] = np.asarray(self._fires.sum(axis=1, dtype=np.float64)).reshape(-1)
        """Tokens that each latent fires on."""

    def neighbours(self, latents: range) -> tuple[np.ndarray, np.ndarray]:
        """Ids and values, [latents, NEIGHBOURS]: n_ij / sqrt(n_i n_j), the largest first; of equals, the lower id."""
        ids = np.full((len(latents), NEIGHBOURS), NONE_ID, dtype=np.uint32)
        values = np.zeros((len(latents), NEIGHBOURS), dtype=np.float32)
        cost = self._fires[latents.start : latents.stop] @ np.diff(self._by_token.indptr).astype(np.float64)
        for rows in _cut(cost, _PAIRS):
            counts = (self._fires[latents.start + rows.start : latents.start + rows.stop] @ self._by_token).tocsr()
            for row in rows:
                here = slice(*counts.indptr[row - rows.start : row - rows.start + 2])
                other, both = counts.indices[here], counts.data[here]
                kept = other != latents.start + row
                other = other[kept].astype(np.int64)
                found = both[kept] / np.sqrt(self.fired[latents.start + row] * self.fired[other])
                order = _first(found, other)
                ids[row, : len(order)], values[row, : len(order)] = other[order], found[order]
        return ids, values


def _first(values: np.ndarray, ids: Int64[np.ndarray, " n"]) -> np.ndarray:
    """Places of the largest values, at most ``NEIGHBOURS`` of them, in order."""
    if len(values) > NEIGHBOURS:
        least = np.partition(values, len(values) - NEIGHBOURS)[len(values) - NEIGHBOURS]
        near = np.flatnonzero(values >= least)
    else:
        near = np.arange(len(values))
    return near[np.lexsort((ids[near], -values[near]))][:NEIGHBOURS]


def _cut(cost: np.ndarray, most: int) -> Iterable[range]:
    """Ranges of rows that cost at most ``most`` together, or are one row."""
    first, held = 0, 0.0
    for row, one in enumerate(cost):
        if row > first and held + one > most:
            yield range(first, row)
            first, held = row, 0.0
        held += one
    if first < len(cost):
        yield range(first, len(cost))
