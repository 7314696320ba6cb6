"""P-values of many latents at once, by exchanging the labels of prompts, and false discovery rates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb, log, prod

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control

GROWTH = 10  # times as many permutations in each further look
FEW = 10  # permutations as extreme as the labels themselves, below which a latent is looked at again
_BLOCK = 2**21  # sums held at a time: 8 MiB
_ROUNDING = 2e-5  # of sums in float32
LEVEL = 0.05  # that the smallest possible p must be below


def weighted_ranks(
    ranks: Float[np.ndarray, "prompt latent"], strata: Sequence[Int[np.ndarray, " _"]]
) -> Float[np.ndarray, "prompt latent"]:
    """Ranks within strata less their mean, by n + 1 of the stratum: van Elteren's weights (1960)."""
    weighted = np.zeros_like(ranks)
    for group in strata:
        weighted[group] = (ranks[group] - (len(group) + 1) / 2) / (len(group) + 1)
    return weighted


@dataclass
class Permutations:
    """P-values by exchanging labels, for latents that come in blocks.

    The statistic is the sum of the weighted ranks of the first set. If labels meant nothing, any exchange of them
    within a stratum would have been as likely: p is the share of exchanges whose sum is as far from 0, the labels
    themselves counted in, ``(e + 1) / (B + 1)``, two-sided. This holds exactly, at any number of prompts and with any
    ties.

    All latents get the same ``count`` exchanges; those of which fewer than ``FEW`` were as extreme get ten times as
    many, and so on up to ``most``, so that p-values of true differences become small enough for a correction over many
    latents. Looking again only where few were extreme does no harm: a p below any level needs either the first look or
    a later one to be below it, and a later one is only reached where the first is.
    """

    first: Bool[np.ndarray, " prompt"]
    """Which prompts are of the first set."""
    strata: Sequence[Int[np.ndarray, " _"]]
    count: int
    """Exchanges of the first look."""
    most: int
    """Exchanges, at most."""
    seed: int

    def __post_init__(self) -> None:
        self._extreme: list[Int[np.ndarray, " latent"]] = []
        self._again: list[Float[np.ndarray, "prompt latent"]] = []
        self._labels = np.concatenate(list(self._exchanged(self.count, self.count, np.random.default_rng(self.seed))))

    def add(self, weighted: Float[np.ndarray, "prompt latent"]) -> None:
        """The first look at some latents, by their ``weighted_ranks``."""
        ranks = weighted.astype(np.float32)
        observed = self._least(ranks)
        extreme = np.zeros(ranks.shape[1], dtype=np.int64)
        step = max(1, _BLOCK // max(1, ranks.shape[1]))
        for start in range(0, len(self._labels), step):
            extreme += (np.abs(self._labels[start : start + step] @ ranks) >= observed).sum(0)
        self._extreme.append(extreme)
        self._again.append(ranks[:, extreme < FEW])

    def ps(self) -> tuple[Float[np.ndarray, " latent"], Int[np.ndarray, " latent"]]:
        """The p-values of all latents that were added, in order, and how many exchanges each rests on."""
        extreme = np.concatenate(self._extreme)
        drawn = np.full(len(extreme), self.count)
        active, ranks = np.flatnonzero(extreme < FEW), np.concatenate(self._again, axis=1)
        generator, done = np.random.default_rng([self.seed, 1]), self.count
        while len(active) and done < self.most:
            total = min(self.most, done * GROWTH)
            observed = self._least(ranks)
            for labels in self._exchanged(total - done, max(1, _BLOCK // len(active)), generator):
                extreme[active] += (np.abs(labels @ ranks) >= observed).sum(0)
            drawn[active], done = total, total
            kept = extreme[active] < FEW
            active, ranks = active[kept], ranks[:, kept]
        return (extreme + 1) / (drawn + 1), drawn

    def _least(self, ranks: Float[np.ndarray, "prompt latent"]) -> Float[np.ndarray, " latent"]:
        """What a sum must reach to be as extreme; sums in another order are not the same to the last bits."""
        observed = np.abs(self.first.astype(np.float32) @ ranks)
        least: Float[np.ndarray, " latent"] = observed - _ROUNDING * np.maximum(1, observed)
        return least

    def _exchanged(
        self, count: int, block: int, generator: np.random.Generator
    ) -> Iterator[Float[np.ndarray, "permutation prompt"]]:
        """Labels exchanged within strata, some permutations at a time; 1 for the first set."""
        block = min(block, 4096)
        for start in range(0, count, block):
            labels = np.zeros((min(block, count - start), len(self.first)), dtype=np.float32)
            for group in self.strata:
                own = np.broadcast_to(self.first[group].astype(np.float32), (len(labels), len(group)))
                labels[:, group] = generator.permuted(own, axis=1)
            yield labels


def least_p(first: Bool[np.ndarray, " prompt"], strata: Sequence[Int[np.ndarray, " _"]]) -> float:
    """The smallest two-sided p that any latent could get: two of all ways to exchange labels within strata."""
    ways = prod(comb(len(group), int(first[group].sum())) for group in strata)
    return min(1.0, 2 / ways)


def prompts_needed(level: float = LEVEL, tests: int = 1) -> int:
    """Prompts of each set, all of one length, with which a p-value of ``level / tests`` can be reached at all."""
    n = 1
    while log(2) - log(comb(2 * n, n)) > log(level) - log(tests):
        n += 1
    return n


def false_discovery(ps: Float[np.ndarray, " latent"]) -> Float[np.ndarray, " latent"]:
    """The false discovery rate at which each latent is found (Benjamini and Hochberg 1995)."""
    found: Float[np.ndarray, " latent"] = false_discovery_control(ps) if len(ps) else ps
    return found
