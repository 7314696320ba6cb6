"""``results.json`` as typed data: what is not of this form is refused here, once, and nowhere else."""

import json
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from steer.errors import DataError
from steer.evals.sets import Group
from steer.studies.text import visible

SCHEMA = 1


def _plain(value: Any) -> Any:
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, str | int | float | None):
            raise ValueError("expected a text, a number, true, false, null, or a list of these")
    return value


Count = Annotated[int, Field(ge=0, le=10**15)]
Number = Annotated[float, Field(ge=-1e39, le=1e39)]  # whatever fits a 32-bit float; can be drawn, summed, formatted
Fraction = Annotated[float, Field(ge=0, le=1)]
Facts = dict[str, Annotated[Any, AfterValidator(_plain)]]
"""What is shown as it stands: settings, versions, ..."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class SetFacts(_Part):
    """A set of test prompts, and what counts as good on it."""

    title: str
    stands_for: str | None = None
    metric: Literal["refused", "correct"]
    better: Literal["higher", "lower"]
    n: Count
    """Prompts."""


class Counted(_Part):
    """One set at one point: prompts counted, their share of the prompts judged, and its interval."""

    n: Count
    """Prompts judged."""
    refused: Count | None = None
    correct: Count | None = None
    rate: Fraction | None = None
    low: Fraction | None = None
    high: Fraction | None = None
    incoherent: Count | None = None

    @model_validator(mode="after")
    def _possible(self) -> "Counted":
        for name in ("refused", "correct", "incoherent"):
            count = getattr(self, name)
            if count is not None and count > self.n:
                raise ValueError(f"{name} is {count}, but only {self.n} prompts were judged")
        return self

    def of(self, metric: str) -> tuple[int, float, float]:
        """Count, and the ends of the interval. Raises ValueError if they are missing or contradict each other."""
        count = self.refused if metric == "refused" else self.correct
        if count is None or self.rate is None or self.low is None or self.high is None:
            raise ValueError(f"{metric}, rate, low and high are needed")
        if not (self.low <= self.rate <= self.high and math.isclose(self.rate, count / self.n, abs_tol=1e-5)):
            raise ValueError(f"{count} of {self.n} is not the rate {self.rate} in {self.low} to {self.high}")
        return count, self.low, self.high


class GroupFacts(_Part):
    """The sets of one group at one point, taken together."""

    sets: list[str]
    """Their names."""
    n: Count
    """Prompts judged."""
    about: Count
    """Different things that they are about; prompts about one thing may go together, and the interval allows for it."""
    rate: Fraction
    low: Fraction
    high: Fraction


class PointFacts(_Part):
    """One arm at one strength."""

    arm: Literal["none", "sae", "control", "direction"]
    strength: Number
    """Clamp value in raw units; length of the added vector for the arm ``direction``."""
    sets: dict[str, Counted] = {}
    groups: dict[Group, GroupFacts] = {}


class CandidateFacts(_Part):
    """A latent that fired while the model refused the archetypal prompt; shares are of development prompts."""

    latent: Count
    tokens_active: Count
    max_activation: Number | None = None
    refusal_dev: Fraction | None = None
    safe_refusal_dev: Fraction | None = None
    strength: Number | None = None
    weakest_dev: Fraction | None = None
    by_set: dict[str, Fraction] = {}
    finalist: bool = False
    n_unsafe: Count | None = None
    n_safe: Count | None = None


class ComparedFacts(CandidateFacts):
    """The best latent of one of the SAEs that were trained."""

    seed: Count
    fvu: Number | None = None


class ControlFacts(_Part):
    """A latent that the control could have been: unrelated to refusal. Shares are of development prompts."""

    latent: Count
    strength: Number
    by_set: dict[str, Fraction]
    """Share refused while it is clamped."""
    moved: Fraction
    """How far that is from the unsteered model, on the set where it is farthest."""


class Results(_Part):
    """The whole file. What an interrupted run lacks is empty or None."""

    complete: bool | None = None
    model: Facts = {}
    settings: Facts = {}
    sets: dict[str, SetFacts] = {}
    sae: Facts = {}
    candidates: list[CandidateFacts] = []
    compared: list[ComparedFacts] = []
    plain_dev: dict[str, Fraction] = {}
    chosen: Count | None = None
    controls: list[ControlFacts] = []
    control: Count | None = None
    points: list[PointFacts] = []
    seconds: dict[str, Number] = {}
    peak_memory_mib: Number | None = None
    versions: Facts = {}

    @model_validator(mode="after")
    def _agrees(self) -> "Results":
        for point in self.points:
            for name, counted in point.sets.items():
                where = f"{point.arm} at {point.strength:g}, set {name!r}"
                if name not in self.sets:
                    raise ValueError(f"{where}: there is no such set")
                if counted.n:
                    try:
                        counted.of(self.sets[name].metric)
                    except ValueError as error:
                        raise ValueError(f"{where}: {error}") from error
            for name, group in point.groups.items():
                where = f"{point.arm} at {point.strength:g}, group {name!r}"
                if not group.low <= group.rate <= group.high:
                    raise ValueError(f"{where}: the rate {group.rate} is not in {group.low} to {group.high}")
                if (n := sum(point.sets[one].n for one in group.sets if one in point.sets)) != group.n:
                    raise ValueError(f"{where}: {group.n} prompts were judged, but {n} in its sets")
        return self


def read_results(path: Path) -> Results:
    """Read ``results.json``. Text in it is made ``visible``.

    Raises:
        DataError: it is missing, cannot be read, is of another schema, lacks a field or has a wrong or impossible one.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_visible, parse_constant=_no_number)
    except FileNotFoundError as error:
        raise DataError(f"{path.parent} holds no results.json. Give the output folder of a study.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}). Run the study again.") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise DataError(f"{path}: expected schema {SCHEMA}, got {reprlib.repr(found)}. Use the version that wrote it.")
    return parse_results(data)


def parse_results(data: Mapping[str, Any]) -> Results:
    """The content of a ``results.json`` as typed data.

    Raises:
        DataError: a field is missing, wrong or impossible.
    """
    try:
        return Results.model_validate({name: value for name, value in data.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        fault = f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"
        raise DataError(f"results.json is not what a report needs: {fault}. Run the study again.") from error


def _visible(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {visible(name): visible(value) for name, value in pairs}


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
