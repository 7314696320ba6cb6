"""How well single latents tell two sets of prompts apart, among prompts of similar length."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata


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


def auc_within(
    values: Float[np.ndarray, "prompt latent"],
    first: Bool[np.ndarray, " prompt"],
    strata: Sequence[Int[np.ndarray, " _"]],
) -> Float[np.ndarray, " latent"]:
    """``stratified_auc`` of activations; prompts that are in no stratum take no part."""
    return stratified_auc(ranks_within(values, strata), first, strata)


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
