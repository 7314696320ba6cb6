"""Successive halving (Jamieson and Talwalkar, arXiv 1502.07943): strengths that do badly on few prompts get no more."""

import math
from collections.abc import Iterator, Mapping, Sequence

from steer.sweeps.config import HalvingConfig
from steer.sweeps.frontier import Point, balance
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
    """The strengths of the better half of an arm's points by balance, in their order; equal ones stay together."""
    found = sorted((balance(one, plain) for one in points), reverse=True)
    least = found[(len(found) + 1) // 2 - 1]
    return tuple(one.strength for one in points if balance(one, plain) >= least - 1e-12)
