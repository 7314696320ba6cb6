"""What a study measured, as it is drawn by ``figures`` and told by ``report``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steer.evals.sets import Group, PromptSet
from steer.studies.results import CandidateFacts, ControlFacts, PointFacts, Results

ARMS = {
    "none": "Unsteered",
    "sae": "Chosen latent",
    "control": "Control latent",
    "direction": "Refusal direction",
}
"""Ways of steering that are compared, and their names in legends and tables."""
TOP_CANDIDATES = 15  # candidates that a report shows


@dataclass(frozen=True)
class Share:
    """A share of prompts, with its 95 % interval where one is known."""

    count: int  # prompts refused, or answered right
    n: int  # prompts judged, at least 1
    incoherent: int = 0  # prompts whose reply was not language
    interval: tuple[float, float] | None = None
    """Fractions: Wilson's for one set, and for all sets of a group the one that counts what the prompts are about."""

    @property
    def value(self) -> float:
        """The share as a fraction."""
        return self.count / self.n


@dataclass(frozen=True)
class MeasuredSet(PromptSet):
    """One set of test prompts, and what counts as good on it."""

    name: str
    n: int  # prompts


Sets = tuple[MeasuredSet, ...]


@dataclass(frozen=True)
class Point:
    """One arm at one strength: a rate for each set measured there."""

    arm: str
    strength: float  # clamp value in raw units; norm of the added vector for the arm "direction"
    rates: Mapping[str, Share]  # by name of the set
    intervals: Mapping[frozenset[str], tuple[float, float]]  # of several sets taken together, by their names; fractions

    def pooled(self, sets: Sets) -> Share | None:
        """All prompts of ``sets`` taken together, or None unless every one of them was measured here.

        A single set keeps its interval; several have the one that was recorded for just these.
        """
        found = [self.rates[s.name] for s in sets if s.name in self.rates]
        if not found or len(found) < len(sets):
            return None
        if len(found) == 1:
            return found[0]
        interval = self.intervals.get(frozenset(s.name for s in sets))
        return Share(sum(s.count for s in found), sum(s.n for s in found), sum(s.incoherent for s in found), interval)


@dataclass(frozen=True)
class Study:
    """Everything a report draws or tabulates. An interrupted run has fewer points, or no candidates."""

    sets: Sets
    points: tuple[Point, ...]
    candidates: tuple[CandidateFacts, ...]  # finalists, then the others, the best first in each group
    chosen: int | None
    controls: tuple[ControlFacts, ...]  # the unrelated latents that the control was taken from, best first
    control: int | None
    training: tuple[Mapping[str, Any], ...]  # lines of sae/training.jsonl

    @property
    def unsteered(self) -> Point | None:
        """The point without any steering, where it was measured."""
        return next(iter(self.arm("none")), None)

    @property
    def steered_arms(self) -> tuple[str, ...]:
        """The arms that steer and were measured, in the order of ``ARMS``."""
        return tuple(name for name in ARMS if name != "none" and self.arm(name))

    def arm(self, name: str) -> tuple[Point, ...]:
        """The points of one arm by rising strength."""
        return tuple(sorted((p for p in self.points if p.arm == name), key=lambda p: p.strength))

    def group(self, name: Group) -> Sets:
        """The sets of one group in the order of the file."""
        return tuple(s for s in self.sets if s.group == name)

    @property
    def top_candidates(self) -> tuple[tuple[str, tuple[CandidateFacts, ...]], ...]:
        """The first ``TOP_CANDIDATES`` in their two groups, which were not measured alike; with the group's name."""
        top = self.candidates[:TOP_CANDIDATES]
        finalists, others = (tuple(c for c in top if c.finalist is which) for which in (True, False))
        return tuple((name, group) for name, group in (("finalists", finalists), ("others", others)) if group)

    def label(self, arm: str) -> str:
        """The words for an arm in legends and tables, with its latent where it has one."""
        latent = {"sae": self.chosen, "control": self.control}.get(arm)
        return ARMS[arm] + ("" if latent is None else f" {latent}")


def read_study(results: Results, training: Sequence[Mapping[str, Any]] = ()) -> Study:
    """What is drawn and told of ``results``; ``training`` holds the lines of ``sae/training.jsonl``."""
    sets = tuple(
        MeasuredSet(one.title, one.stands_for or "", one.metric, one.better, name, one.n)
        for name, one in results.sets.items()
    )
    points = tuple(_point(one, sets) for one in results.points)
    return Study(
        sets=sets,
        points=points,
        candidates=tuple(results.candidates),
        chosen=results.chosen,
        controls=tuple(results.controls),
        control=results.control,
        training=tuple(training),
    )


def _point(facts: PointFacts, sets: Sets) -> Point:
    """One point; a set on which no prompt was judged is left out."""
    metrics = {s.name: s.metric for s in sets}
    shares = {}
    for name, counted in facts.sets.items():
        if counted.n:
            count, low, high = counted.of(metrics[name])
            shares[name] = Share(count, counted.n, counted.incoherent or 0, (low, high))
    intervals = {frozenset(one.sets): (one.low, one.high) for one in facts.groups.values()}
    return Point(facts.arm, facts.strength, shares, intervals)
