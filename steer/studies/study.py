"""What a study measured, in typed form: read from ``results.json``, drawn by ``figures`` and told by ``report``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steer.errors import DataError
from steer.evals.stats import wilson
from steer.studies.text import visible

Group = Literal["harmful", "harmless", "ability"]
GROUPS: tuple[Group, ...] = ("harmful", "harmless", "ability")
ARMS = {
    "none": "Unsteered",
    "sae": "Chosen latent",
    "control": "Control latent",
    "direction": "Refusal direction",
}
"""Ways of steering that are compared, and their names in legends and tables."""


@dataclass(frozen=True)
class Share:
    """A share of prompts with its 95 % Wilson interval; ``value``, ``low`` and ``high`` are fractions."""

    count: int  # prompts refused, or answered right
    n: int  # prompts judged
    value: float
    low: float
    high: float
    incoherent: int = 0  # prompts whose reply was not language

    @classmethod
    def of(cls, count: int, n: int, incoherent: int = 0) -> "Share":
        """``count / n`` with its interval; needs n > 0."""
        return cls(count, n, count / n, *wilson(count, n), incoherent)


@dataclass(frozen=True)
class MeasuredSet:
    """One set of test prompts and what counts as good on it."""

    name: str
    title: str
    stands_for: str
    metric: Literal["refused", "correct"]
    better: Literal["higher", "lower"]
    n: int  # prompts

    @property
    def group(self) -> Group:
        """Harmful requests should be refused, harmless ones should not; ability sets are scored right or wrong."""
        if self.metric == "correct":
            return "ability"
        return "harmful" if self.better == "higher" else "harmless"


Sets = tuple[MeasuredSet, ...]


@dataclass(frozen=True)
class Point:
    """One arm at one strength: a rate for each set measured there."""

    arm: str
    strength: float  # clamp value in raw units; norm of the added vector for the arm "direction"
    rates: Mapping[str, Share]  # by name of the set

    def pooled(self, sets: Sets) -> Share | None:
        """All prompts of ``sets`` taken together, or None unless every one of them was measured here."""
        found = [self.rates[s.name] for s in sets if s.name in self.rates]
        if not found or len(found) < len(sets):
            return None
        counts = [(share.count, share.n, share.incoherent) for share in found]
        return Share.of(*map(sum, zip(*counts, strict=True)))


@dataclass(frozen=True)
class Candidate:
    """A latent that fired while the model refused the archetypal prompt; rates are fractions of dev prompts."""

    latent: int
    tokens_active: int
    refusal_dev: float | None
    safe_refusal_dev: float | None
    max_activation: float | None


@dataclass(frozen=True)
class Study:
    """Everything a report draws or tabulates. An interrupted run has fewer points, or no candidates."""

    sets: Sets
    points: tuple[Point, ...]
    candidates: tuple[Candidate, ...]  # best first
    chosen: int | None
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

    def label(self, arm: str) -> str:
        """The words for an arm in legends and tables, with its latent where it has one."""
        latent = {"sae": self.chosen, "control": self.control}.get(arm)
        return ARMS[arm] + ("" if latent is None else f" {latent}")


def read_study(results: Mapping[str, Any], training: Sequence[Mapping[str, Any]] = ()) -> Study:
    """The typed form of ``results.json``; whatever an interrupted run lacks is empty or None.

    Raises:
        DataError: a field is missing or of the wrong type inside a set, a point or a candidate.
    """
    try:
        sets = tuple(_set(name, fields) for name, fields in (results.get("sets") or {}).items())
        points = tuple(_point(fields, sets) for fields in results.get("points") or ())
        chosen, control = (None if one is None else int(one) for one in map(results.get, ("chosen", "control")))
        candidates = tuple(_candidate(fields) for fields in results.get("candidates") or ())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        fault = f"{error} is missing or unknown" if isinstance(error, KeyError) else str(error)
        raise DataError(f"results.json is not what a report needs: {fault}. Run the study again.") from error
    return Study(sets, points, candidates, chosen, control, tuple(training))


def _candidate(fields: Mapping[str, Any]) -> Candidate:
    measured = (fields.get(name) for name in ("refusal_dev", "safe_refusal_dev", "max_activation"))
    return Candidate(int(fields["latent"]), int(fields["tokens_active"]), *measured)


def _set(name: str, fields: Mapping[str, Any]) -> MeasuredSet:
    if fields["metric"] not in ("refused", "correct") or fields["better"] not in ("higher", "lower"):
        raise ValueError(f"set {name!r}: metric must be refused or correct, better must be higher or lower")
    title, stands_for = visible(fields["title"]), visible(fields.get("stands_for") or "")
    return MeasuredSet(name, title, stands_for, fields["metric"], fields["better"], int(fields["n"]))


def _point(fields: Mapping[str, Any], sets: Sequence[MeasuredSet]) -> Point:
    """One point; a set on which no prompt was judged is left out."""
    metrics = {s.name: s.metric for s in sets}
    if fields["arm"] not in ARMS:
        raise ValueError(f"unknown arm {fields['arm']!r}, expected one of {', '.join(ARMS)}")
    shares = {}
    for name, r in (fields.get("sets") or {}).items():
        if r["n"]:
            count, incoherent = int(r[metrics[name]]), int(r.get("incoherent") or 0)
            value, low, high = float(r["rate"]), float(r["low"]), float(r["high"])
            shares[name] = Share(count, int(r["n"]), value, low, high, incoherent)
    return Point(fields["arm"], float(fields["strength"]), shares)
