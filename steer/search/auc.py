"""How well single latents tell two sets of prompts apart, among prompts of similar length."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

RATIO = 1.25  # longest prompt of a stratum by its shortest, in tokens, at most, unless they differ by SLACK
SLACK = 2  # tokens
LEAST = 2  # prompts of each set in a stratum


def length_strata(
    lengths: Int[np.ndarray, " prompt"],
    first: Bool[np.ndarray, " prompt"],
    least: int = LEAST,
    ratio: float = RATIO,
    slack: int = SLACK,
) -> list[Int[np.ndarray, " _"]]:
    """Groups of prompts of similar length, as their numbers; those without a counterpart of their length are in none.

    Prompts are taken in the order of their length. A group is closed at the first length by which it holds ``least``
    prompts of each set and beyond which it would span more than a tenth; where it would come to span more than
    ``ratio`` (or ``slack`` tokens, if that is more) before it holds them, its shortest prompts are given up. Comparing
    within these groups alone is what takes the length of prompts out of a contrast: the maximum over more tokens is
    larger, whatever they say.
    """
    order = np.lexsort((np.arange(len(lengths)), lengths))
    groups: list[list[int]] = []
    group: list[int] = []
    for prompt in order.tolist():
        length = int(lengths[prompt])
        if (
            group
            and length > int(lengths[group[-1]])
            and _holds(group, first, least)
            and length > 1.1 * lengths[group[0]]
        ):
            groups.append(group)
            group = []
        while group and length > max(ratio * lengths[group[0]], lengths[group[0]] + slack):
            if _holds(group, first, least):
                groups.append(group)
                group = []
            else:
                group = group[1:]
        group.append(prompt)
    if _holds(group, first, least):
        groups.append(group)
    return [np.array(one) for one in groups]


def _holds(group: Sequence[int], first: Bool[np.ndarray, " prompt"], least: int) -> bool:
    of_first = int(first[list(group)].sum()) if group else 0
    return min(of_first, len(group) - of_first) >= least


def ranks_within(
    values: Float[np.ndarray, "prompt latent"], strata: Sequence[Int[np.ndarray, " _"]]
) -> Float[np.ndarray, "prompt latent"]:
    """Midranks of prompts within their stratum, from 1; 0 for prompts that are in none."""
    ranks = np.zeros(values.shape)
    for group in strata:
        ranks[group] = rankdata(values[group], axis=0)
    return ranks


def stratified_auc(
    ranks: Float[np.ndarray, "prompt latent"],
    first: Bool[np.ndarray, " prompt"],
    strata: Sequence[Int[np.ndarray, " _"]],
) -> Float[np.ndarray, " latent"]:
    """The chance that a prompt of the first set has more of a latent than one of the second of similar length.

    That is the AUC (Mann-Whitney's U by the number of pairs; ties count half) over the pairs within strata; NaN
    without any.
    """
    above, pairs = np.zeros(ranks.shape[1]), 0
    for group in strata:
        n = int(first[group].sum())
        above += ranks[group][first[group]].sum(0) - n * (n + 1) / 2
        pairs += n * (len(group) - n)
    return above / pairs if pairs else np.full(ranks.shape[1], np.nan)


def auc_interval(
    auc: Float[np.ndarray, " latent"], n_first: int, n_second: int, z: float = 1.959963984540054
) -> tuple[Float[np.ndarray, " latent"], Float[np.ndarray, " latent"]]:
    """95 % interval of AUCs measured on so many prompts: Newcombe (2006, Statistics in Medicine 25), method 5.

    The interval of score type that Hanley and McNeil's variance gives with ``m = (n_first + n_second) / 2 - 1``:
    the A that solve ``(A - auc)^2 = z^2 A (1 - A) (1 + m (1 - A) / (2 - A) + m A / (1 + A)) / (n_first n_second)``.
    Unlike Wald's it has a width at 0 and 1.
    """
    m = (n_first + n_second) / 2 - 1

    def outside(a: Float[np.ndarray, " latent"]) -> Bool[np.ndarray, " latent"]:
        variance = a * (1 - a) * (1 + m * (1 - a) / (2 - a) + m * a / (1 + a)) / (n_first * n_second)
        far: Bool[np.ndarray, " latent"] = np.square(a - auc) > z * z * variance
        return far

    bounds = []
    for edge in (0.0, 1.0):
        away, near = np.full(auc.shape, edge), np.array(auc, dtype=np.float64)
        for _ in range(50):
            middle = (away + near) / 2
            far = outside(middle)
            away, near = np.where(far, middle, away), np.where(far, near, middle)
        bounds.append((away + near) / 2)
    return bounds[0], bounds[1]
