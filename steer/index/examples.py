"""Which windows stand for a latent: the strongest, and samples of the strata below, each of another document.

Pure functions of the hits of a block of latents, vectorised over them, so the result does not depend on how latents
are cut into blocks.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from steer.index.chunks import Corpus, Hits
from steer.index.layout import STRATA, TOP, Sizes, arrays

_POOL = 4  # times as many of the strongest are looked at as are kept
_AROUND = 8  # tokens on each side of a peak that make two examples the same
_BEFORE = 2 / 3  # of a window


@dataclass(frozen=True)
class Places:
    """Where in the corpus things are, by token."""

    corpus: Corpus
    document: Shaped[np.ndarray, " token"]
    """Number of its document."""
    row: Shaped[np.ndarray, " token"]
    """Number of its row."""
    content: Shaped[np.ndarray, " token"]
    """Hash of the tokens around it, its row's and its document's alone."""

    @classmethod
    def of(cls, corpus: Corpus) -> "Places":
        """Of a corpus."""
        count = len(corpus.tokens)
        document = np.zeros(count, dtype=np.int32)
        np.add.at(document, corpus.documents[corpus.documents > 0], 1)
        row = np.zeros(count, dtype=np.int32)
        np.add.at(row, corpus.rows[1:], 1)
        document, row = np.cumsum(document, dtype=np.int32), np.cumsum(row, dtype=np.int32)
        return cls(corpus, document, row, _contents(corpus.tokens, document, row))

    def limits(self, places: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """From where to where the tokens of each place's document in its row are."""
        ends = len(self.corpus.tokens)
        starts = np.unique(np.concatenate([self.corpus.rows, self.corpus.documents]))
        number = np.searchsorted(starts, places, side="right") - 1
        stops = np.append(starts[1:], ends)
        return starts[number], stops[number]


def _contents(tokens: np.ndarray, document: np.ndarray, row: np.ndarray) -> np.ndarray:
    found = np.zeros(len(tokens), dtype=np.uint64)
    for shift in range(-_AROUND, _AROUND + 1):
        if abs(shift) >= len(tokens):
            continue
        here = slice(max(0, -shift), len(tokens) - max(0, shift))
        there = slice(max(0, shift), len(tokens) - max(0, -shift))
        same = (document[here] == document[there]) & (row[here] == row[there])
        salted = (tokens[there].astype(np.uint64) + np.uint64(1)) * np.uint64(2 * (shift + _AROUND) + 1)
        found[here] += np.where(same, mixed(salted), np.uint64(0))
    return found


def mixed(values: Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, " n"]:
    """Numbers of 64 bits that look random, one for each (splitmix64; Steele et al., OOPSLA 2014)."""
    z = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@dataclass(frozen=True)
class Peaks:
    """The strongest token of each latent in each document, by latent and then by place."""

    latents: Int64[np.ndarray, " peak"]
    places: Int64[np.ndarray, " peak"]
    values: Shaped[np.ndarray, " peak"]

    @classmethod
    def of(cls, hits: Hits, places: Places) -> "Peaks":
        """Of hits in order; of several equal ones, the first."""
        if not len(hits.values):
            return cls(hits.latents, hits.places, hits.values)
        document = places.document[hits.places]
        new = np.r_[True, (hits.latents[1:] != hits.latents[:-1]) | (document[1:] != document[:-1])]
        starts = np.flatnonzero(new)
        group = np.cumsum(new) - 1
        strongest = np.flatnonzero(hits.values == np.maximum.reduceat(hits.values, starts)[group])
        first = np.r_[True, group[strongest][1:] != group[strongest][:-1]]
        peak = strongest[first]
        return cls(hits.latents[peak], hits.places[peak], hits.values[peak])

    def taken(self, which: np.ndarray) -> "Peaks":
        """Some of them."""
        return Peaks(self.latents[which], self.places[which], self.values[which])


@dataclass(frozen=True)
class Chosen:
    """Examples: peaks by latent, stratum and falling value, and the stratum of each."""

    peaks: Peaks
    stratum: Int64[np.ndarray, " peak"]


def chosen(peaks: Peaks, places: Places, sizes: Sizes, per_peak_token: int, seed: int) -> Chosen:
    """At most ``sizes.examples`` of each latent's peaks.

    The ``sizes.top`` strongest, of which at most ``per_peak_token`` have the same token as long as there are others;
    then as many of each stratum, drawn by a hash of their place. No two have the same tokens around their peak.
    """
    top = _strongest(peaks, places, sizes, per_peak_token)
    rest = np.ones(len(peaks.values), dtype=bool)
    rest[top] = False
    best = _largest(peaks)
    candidates = np.flatnonzero(rest)
    below = -np.log2(peaks.values[candidates].astype(np.float64) / best[candidates])
    stratum = np.clip(np.floor(below), 0, STRATA - 1).astype(np.int64)
    lot = mixed(peaks.places[candidates].astype(np.uint64) + mixed(np.array([seed]))[0])
    order = np.lexsort((lot, stratum, peaks.latents[candidates]))
    drawn, stratum = candidates[order], stratum[order]
    soon = earlier(peaks.latents[drawn], stratum) < sizes.examples  # no more than that can be needed
    drawn, stratum = drawn[soon], stratum[soon]
    both = np.concatenate([top, drawn])
    fresh = earlier(peaks.latents[both], places.content[peaks.places[both]].view(np.int64))[len(top) :] == 0
    drawn, stratum = drawn[fresh], stratum[fresh]
    turn = earlier(peaks.latents[drawn], stratum)
    order = np.lexsort((stratum, turn, peaks.latents[drawn]))  # one of each stratum, then a second of each, ...
    drawn, stratum = drawn[order], stratum[order]
    have = np.bincount(peaks.latents[top], minlength=int(peaks.latents.max(initial=0)) + 1)
    kept = earlier(peaks.latents[drawn]) < sizes.examples - have[peaks.latents[drawn]]
    every = np.concatenate([top, drawn[kept]])
    strata = np.concatenate([np.full(len(top), TOP), stratum[kept] + TOP + 1])
    order = np.lexsort((peaks.places[every], -peaks.values[every], strata, peaks.latents[every]))
    return Chosen(peaks.taken(every[order]), strata[order])


def _strongest(peaks: Peaks, places: Places, sizes: Sizes, per_peak_token: int) -> np.ndarray:
    order = np.lexsort((peaks.places, -peaks.values, peaks.latents))
    pool = order[earlier(peaks.latents[order]) < _POOL * sizes.top]
    latents, at = peaks.latents[pool], peaks.places[pool]
    pool = pool[earlier(latents, places.content[at].view(np.int64)) == 0]
    latents, tokens = peaks.latents[pool], places.corpus.tokens[peaks.places[pool]].astype(np.int64)
    again = earlier(latents, tokens) >= per_peak_token
    pool = pool[np.lexsort((np.arange(len(pool)), again, latents))]
    return pool[earlier(peaks.latents[pool]) < sizes.top]


def _largest(peaks: Peaks) -> np.ndarray:
    """For each peak, the largest of its latent."""
    if not len(peaks.values):
        return peaks.values
    starts = np.flatnonzero(np.r_[True, peaks.latents[1:] != peaks.latents[:-1]])
    return np.repeat(np.maximum.reduceat(peaks.values, starts), np.diff(np.append(starts, len(peaks.values))))


def earlier(*keys: Shaped[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """For each entry, how many before it have the same keys."""
    count = len(keys[0])
    if not count:
        return np.zeros(0, dtype=np.int64)
    order = np.lexsort(keys[::-1])  # stable
    new: Bool[np.ndarray, " n"] = np.zeros(count, dtype=bool)
    new[0] = True
    for key in keys:
        new[1:] |= key[order][1:] != key[order][:-1]
    number = np.arange(count)
    found = np.empty(count, dtype=np.int64)
    found[order] = number - np.maximum.accumulate(np.where(new, number, 0))
    return found


def example_arrays(hits: Hits, latents: range, picked: Chosen, places: Places, sizes: Sizes) -> dict[str, np.ndarray]:
    """The arrays ``ex_*`` of a block of latents."""
    shapes = arrays(sizes)
    made = {
        name: np.zeros((len(latents), *array.shape), dtype=array.dtype)
        for name, array in shapes.items()
        if name.startswith("ex_")
    }
    peaks, strata = picked.peaks, picked.stratum
    if not len(peaks.values):
        return made
    largest = np.zeros(len(latents), dtype=np.float32)
    np.maximum.at(largest, hits.latents - latents.start, hits.values)
    made["ex_scale"] = largest / np.float32(255)
    slot = (peaks.latents - latents.start, earlier(peaks.latents))
    low, high = places.limits(peaks.places)
    start = np.maximum(low, peaks.places - int(sizes.window * _BEFORE))
    stop = np.minimum(high, start + sizes.window)
    start = np.maximum(low, stop - sizes.window)
    made["ex_off"][slot], made["ex_len"][slot] = start, stop - start
    made["ex_peak"][slot], made["ex_max"][slot] = peaks.places - start, peaks.values
    made["ex_stratum"][slot] = strata
    span = len(places.corpus.tokens) + 1
    keys = hits.latents * span + hits.places
    first = np.searchsorted(keys, peaks.latents * span + start)
    count = np.searchsorted(keys, peaks.latents * span + stop) - first
    example = np.repeat(np.arange(len(start)), count)
    hit = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(int(count.sum()))
    steps = hits.values[hit] / made["ex_scale"][hits.latents[hit] - latents.start]
    made["ex_act"][slot[0][example], slot[1][example], hits.places[hit] - start[example]] = np.clip(
        np.rint(steps), 1, 255
    )
    return made
