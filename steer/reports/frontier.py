"""Safety against what it costs: refusal of unsafe requests beside refusal of safe ones and ability."""

from dataclasses import dataclass

from steer.evals.frontier import unbeaten
from steer.reports.estimates import SAFE_REFUSED, UNSAFE_REFUSED, PooledShares, ability_metric, pooled_shares
from steer.reports.part import Part

SAFE_AXIS, ABILITY_AXIS = "safe requests refused", "questions answered right"


@dataclass(frozen=True)
class Frontier:
    """Each run as a point, or several."""

    words: str
    """The split."""
    labels: dict[int, str]
    """Of the runs, by number."""
    harmful: PooledShares
    costs: dict[str, PooledShares]
    """By axis, ``SAFE_AXIS`` and ``ABILITY_AXIS``; those that were measured."""

    def best(self, axis: str) -> list[int]:
        """Numbers of the runs that no other run beats on both axes, by the figures alone, the cheapest first."""
        sign = 1 if axis == SAFE_AXIS else -1  # what is refused is a cost, what is right is lost by going down
        numbers = list(self.labels)
        costs = [sign * self.costs[axis].by_run[n].value for n in numbers]
        gains = [self.harmful.by_run[n].value for n in numbers]
        found = sorted(unbeaten(costs, gains), key=lambda place: (costs[place], gains[place]))
        return [numbers[place] for place in found]


def frontier(part: Part) -> Frontier | None:
    """None where unsafe requests, or everything that their refusal may cost, were not asked of all runs."""
    first = part.tasks_of(part.runs[0])

    def over(metric: str) -> PooledShares | None:
        return pooled_shares(part, {name: metric for name, task in first.items() if metric in task.metrics})

    ability = {name: metric for name, task in first.items() if (metric := ability_metric(task))}
    costs = {SAFE_AXIS: over(SAFE_REFUSED), ABILITY_AXIS: pooled_shares(part, ability)}
    known = {axis: one for axis, one in costs.items() if one is not None}
    harmful = over(UNSAFE_REFUSED)
    if harmful is None or not known:
        return None
    return Frontier(part.words, {run.number: run.label for run in part.runs}, harmful, known)
