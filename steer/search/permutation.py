"""P-values of many latents at once, by exchanging the labels of prompts, and false discovery rates."""

from collections.abc import Iterator, Sequence
from math import comb, log, prod

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control

GROWTH = 10  # times as many permutations in each further look
FEW = 10  # permutations as extreme as the labels themselves, below which a latent is looked at again
_BLOCK = 2**21  # sums held at a time: 16 MiB
_LEVEL = 0.05


def weighted_ranks(
    ranks: Float[np.ndarray, "prompt latent"], strata: Sequence[Int[np.ndarray, " _"]]
) -> Float[np.ndarray, "prompt latent"]:
    """Ranks within strata less their mean, by n + 1 of the stratum: van Elteren's weights (1960)."""
    weighted = np.zeros_like(ranks)
    for group in strata:
        weighted[group] = (ranks[group] - (len(group) + 1) / 2) / (len(group) + 1)
    return weighted


def permutation_ps(
    weighted: Float[np.ndarray, "prompt latent"],
    first: Bool[np.ndarray, " prompt"],
    strata: Sequence[Int[np.ndarray, " _"]],
    permutations: int,
    most: int,
    seed: int,
) -> tuple[Float[np.ndarray, " latent"], Int[np.ndarray, " latent"]]:
    """Two-sided p-values of no difference between the sets, and how many permutations each rests on.

    The statistic is the sum of the ``weighted`` ranks of the first set. If labels meant nothing, any exchange of them
    within a stratum would have been as likely: p is the share of exchanges whose sum is as far from 0, the labels
    themselves counted in, ``(e + 1) / (B + 1)``. This holds exactly, at any number of prompts and with any ties.

    All latents get ``permutations`` exchanges; those of which fewer than ``FEW`` were as extreme get ten times as
    many, and so on up to ``most``, so that p-values of true differences become small enough for a correction over many
    latents. Looking again only where few were extreme does not harm: a p below any level needs either the
    first look or a later one to be below it, and a later one is only reached where the first is.
    """
    observed = np.abs(first.astype(np.float64) @ weighted)
    least = observed - 1e-9 * np.maximum(1.0, observed)  # sums in another order are not the same to the last bit
    extreme = np.zeros(weighted.shape[1], dtype=np.int64)
    drawn = np.zeros(weighted.shape[1], dtype=np.int64)
    generator = np.random.default_rng(seed)
    active, total = np.arange(weighted.shape[1]), permutations
    done = 0
    while len(active) and done < total:
        ranks = np.ascontiguousarray(weighted[:, active])
        for labels in _labels(first, strata, total - done, max(1, _BLOCK // len(active)), generator):
            extreme[active] += (np.abs(labels @ ranks) >= least[active]).sum(0)
        drawn[active] = total
        done, total = total, min(most, total * GROWTH)
        active = active[extreme[active] < FEW]
    return (extreme + 1) / (drawn + 1), drawn


def _labels(
    first: Bool[np.ndarray, " prompt"],
    strata: Sequence[Int[np.ndarray, " _"]],
    count: int,
    block: int,
    generator: np.random.Generator,
) -> Iterator[Float[np.ndarray, "permutation prompt"]]:
    """Labels exchanged within strata, some permutations at a time; 1 for the first set."""
    block = min(block, 4096)
    for start in range(0, count, block):
        labels = np.zeros((min(block, count - start), len(first)))
        for group in strata:
            own = np.broadcast_to(first[group].astype(np.float64), (len(labels), len(group)))
            labels[:, group] = generator.permuted(own, axis=1)
        yield labels


def least_p(first: Bool[np.ndarray, " prompt"], strata: Sequence[Int[np.ndarray, " _"]]) -> float:
    """The smallest two-sided p that any latent could get: two of all ways to exchange labels within strata."""
    ways = prod(comb(len(group), int(first[group].sum())) for group in strata)
    return min(1.0, 2 / ways)


def prompts_needed(level: float = _LEVEL, tests: int = 1) -> int:
    """Prompts of each set, all of one length, with which a p-value of ``level / tests`` can be reached at all."""
    n = 1
    while log(2) - log(comb(2 * n, n)) > log(level) - log(tests):
        n += 1
    return n


def false_discovery(ps: Float[np.ndarray, " latent"]) -> Float[np.ndarray, " latent"]:
    """The false discovery rate at which each latent is found (Benjamini and Hochberg 1995)."""
    found: Float[np.ndarray, " latent"] = false_discovery_control(ps) if len(ps) else ps
    return found
