"""Successive halving (Jamieson and Talwalkar, arXiv 1502.07943) over latents and strengths.

All arms are measured on a small part of the prompts; the better half of them is measured on twice as many, and so on,
until the few that are left have seen all. What was measured is kept, so the price of K arms on N prompts is
``K N (first + first/2 log2(1/first))`` replies where the whole grid takes ``K N``.
"""

import math
from collections.abc import Callable, Sequence

from steer.checks import require_finite
from steer.errors import DataError
from steer.features.outcomes import Outcomes
from steer.features.trial import Arm

FIRST = 1 / 16  # of the prompts, on which all arms are measured


def rounds(prompts: int, first: float = FIRST, least: int = 1) -> list[int]:
    """Prompts of each round: a part of them, at least ``least``, then twice as many, ..., all.

    Raises:
        DataError: ``first`` is not above 0 and at most 1.
    """
    require_finite("first", first, DataError)
    if not 0 < first <= 1:
        raise DataError(f"first is the share of the prompts of the first round, above 0 and at most 1: got {first}.")
    size = min(prompts, max(least, math.ceil(first * prompts)))
    found = [size]
    while size < prompts:
        size = min(prompts, 2 * size)
        found.append(size)
    return found


def replies_of(arms: int, prompts: int, first: float = FIRST, least: int = 1) -> int:
    """How many replies ``halve`` asks for: those of so many arms on so many prompts.

    Raises:
        DataError: see ``rounds``.
    """
    left, before, total = arms, 0, 0
    for size in rounds(prompts, first, least):
        total += left * (size - before)
        left, before = (left + 1) // 2, size
    return total


def halve(
    outcomes: Outcomes,
    arms: Sequence[Arm],
    effect: Callable[[Arm], float],
    first: float = FIRST,
    least: int = 1,
) -> list[Arm]:
    """Measure arms until those left have seen all prompts. All are returned, the best first, those given up
    later before those given up earlier; of equal ones the one given first.
    """
    left, given_up = list(arms), list[Arm]()
    for number, prompts in enumerate(rounds(len(outcomes.samples), first, least)):
        if number:
            kept = (len(left) + 1) // 2
            left, given_up = left[:kept], left[kept:] + given_up
        outcomes.measure(left, prompts)
        left.sort(key=lambda arm: -effect(arm))
    return left + given_up
