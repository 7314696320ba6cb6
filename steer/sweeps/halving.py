"""Successive halving (Jamieson and Talwalkar, arXiv 1502.07943): strengths that do badly on few prompts get no more."""

import math
from collections.abc import Iterator, Mapping, Sequence

from steer.sweeps.config import HalvingConfig
from steer.sweeps.frontier import Point, balance, best_of
from steer.sweeps.tasks import Task


def rounds(config: HalvingConfig, tasks: Mapping[str, Task]) -> Iterator[dict[str, int]]:
    """Prompts of each task in each round but the last, which has them all: a part of them, then twice as many, ..."""
    share = config.first
    while share < 1:
        counts = {
            name: min(len(task.samples), max(config.least, math.ceil(share * len(task.samples))))
            for name, task in tasks.items()
        }
        if all(count == len(tasks[name].samples) for name, count in counts.items()):
            return
        yield counts
        share *= 2


def better_half(points: Sequence[Point], plain: Point) -> tuple[float, ...]:
    """The strengths of the better half of an arm's points by balance, in their order, and those close to the best.

    Close is a difference below its standard error: on few prompts the best may be behind by chance. Of equally good
    ones those are taken first that are nearer to the best, since between strengths the balance changes steadily.
    """
    best = best_of(points, plain)

    def behind(one: Point) -> float:
        return round(balance(best, plain) - balance(one, plain), 12)

    ranked = sorted(points, key=lambda one: (behind(one), abs(one.strength - best.strength)))
    kept = {one.strength for one in ranked[: (len(points) + 1) // 2]}
    return tuple(
        one.strength
        for one in points
        if one.strength in kept or behind(one) < math.hypot(standard_error(one), standard_error(best))
    )


def standard_error(point: Point) -> float:
    """Of a point's balance: of the shares that it sums, each with one success and one failure more (Laplace)."""
    shares = [((one.successes + 1) / (one.n + 2), one.n) for one in point.groups.values()]
    return math.sqrt(sum(share * (1 - share) / n for share, n in shares))
