"""Splits of two sets of prompts: which are held out, and whether a ranking would come out again on other splits."""

import numpy as np
from jaxtyping import Bool, Float, Int

from steer.search.auc import auc_within
from steer.search.pooled import Pooled
from steer.search.strata import strata_of

HELD_FROM = 12  # prompts of each set from which on some are held out
AMONG = 10  # a latent is found again where it is among so many
CANDIDATES = 1_000  # the best on the split that was tested, among which re-splits rank


def held_out(
    lengths: Int[np.ndarray, " prompt"], first: Bool[np.ndarray, " prompt"], share: float, seed: int | tuple[int, ...]
) -> Bool[np.ndarray, " prompt"]:
    """Which prompts are held out: of each set the same ``share`` of every length; of small sets none."""
    held = np.zeros(len(first), dtype=bool)
    if not share or min(int(first.sum()), int((~first).sum())) < HELD_FROM:
        return held
    generator = np.random.default_rng(seed)
    for own in (np.flatnonzero(first), np.flatnonzero(~first)):
        order = own[np.lexsort((generator.random(len(own)), lengths[own]))]
        places = (np.arange(round(len(own) * share)) + generator.random()) / share
        held[order[np.minimum(places.astype(int), len(own) - 1)]] = True
    return held


def found_again(
    pooled: Pooled,
    first: Bool[np.ndarray, " prompt"],
    latents: Int[np.ndarray, " latent"],
    score: Float[np.ndarray, " latent"],
    weight: Float[np.ndarray, " latent"],
    held_out_frac: float,
    resplits: int,
    seed: int,
) -> Float[np.ndarray, " latent"]:
    """For each latent the share of re-splits in which it is among the first ``AMONG``.

    A re-split holds out another ``held_out_frac`` of each set and ranks on the others as the contrast does, by effect
    times ``weight`` within strata of length, the ``CANDIDATES`` with the largest positive ``score``. NaN: the latent is
    none of them, or the sets are too small to be split. Prompts are shared between re-splits, so this says how far the
    ranking depends on the prompts that were drawn, and is no probability of finding it in others.
    """
    found = np.full(len(latents), np.nan)
    best = np.argsort(-score, kind="stable")[:CANDIDATES]
    best = np.sort(best[score[best] > 0])
    if not len(best) or not resplits:
        return found
    values, counts, done = pooled.dense(latents[best]), np.zeros(len(best)), 0
    for number in range(resplits):
        held = held_out(pooled.lengths, first, held_out_frac, (seed, 2, number))
        strata = strata_of(~held, pooled.lengths, first)
        if not held.any() or not strata.groups:
            continue
        scores = (2 * auc_within(values, first, strata.groups) - 1) * weight[best]
        order = np.argsort(-scores, kind="stable")[:AMONG]
        counts[order[scores[order] > 0]] += 1
        done += 1
    if done:
        found[best] = counts / done
    return found
