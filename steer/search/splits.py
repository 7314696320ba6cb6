"""Parts of two sets of prompts: which are held out, and which of the rest are compared."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from steer.search.auc import length_strata, ranks_within, stratified_auc

HELD_FROM = 12  # prompts of each set from which on some are held out


@dataclass(frozen=True)
class Grouped:
    """Prompts in strata of similar length."""

    strata: list[Int[np.ndarray, " _"]]
    used: Int[np.ndarray, " _"]
    """Prompts in some stratum."""
    left: Int[np.ndarray, " _"]
    """Prompts in none."""


def grouped(
    part: Bool[np.ndarray, " prompt"],
    lengths: Int[np.ndarray, " prompt"],
    first: Bool[np.ndarray, " prompt"],
    least: int,
) -> Grouped:
    """The strata of some of the prompts, each with ``least`` of both sets."""
    own = np.flatnonzero(part)
    strata = [own[group] for group in length_strata(lengths[own], first[own], least)]
    used = np.sort(np.concatenate(strata)) if strata else np.zeros(0, dtype=np.int64)
    return Grouped(strata, used, np.setdiff1d(own, used))


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


def auc_on(
    values: Float[np.ndarray, "prompt latent"], first: Bool[np.ndarray, " prompt"], groups: Grouped
) -> Float[np.ndarray, " latent"]:
    """The AUC of some latents over the pairs within strata."""
    return stratified_auc(ranks_within(values, groups.strata), first, groups.strata)
