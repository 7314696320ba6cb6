"""Strata: groups of prompts of similar length, within which alone two sets of prompts are compared."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

RATIO = 1.25  # longest prompt of a stratum by its shortest, in tokens, at most, unless they differ by SLACK
SLACK = 2  # tokens
LEAST = 2  # prompts of each set in a stratum


@dataclass(frozen=True)
class Strata:
    """Prompts in strata of similar length."""

    groups: list[Int[np.ndarray, " _"]]
    """Numbers of the prompts in each stratum."""
    used: Int[np.ndarray, " _"]
    """Prompts in some stratum."""
    left: Int[np.ndarray, " _"]
    """Prompts in none."""


def strata_of(
    part: Bool[np.ndarray, " prompt"],
    lengths: Int[np.ndarray, " prompt"],
    first: Bool[np.ndarray, " prompt"],
    least: int = LEAST,
) -> Strata:
    """The strata of the prompts in ``part``, each with at least ``least`` of both sets."""
    own = np.flatnonzero(part)
    groups = [own[group] for group in length_strata(lengths[own], first[own], least)]
    used = np.sort(np.concatenate(groups)) if groups else np.zeros(0, dtype=np.int64)
    return Strata(groups, used, np.setdiff1d(own, used))


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
