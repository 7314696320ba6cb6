"""What `steer judge calibrate --json` found of a judge, as a report shows it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer.errors import DataError
from steer.evals.read import read_object
from steer.reports.table import Cell, Interval, Share, Table
from steer.studies.text import is_number

_NUMBERS = ("n", "unscored")


@dataclass(frozen=True)
class Calibrated:
    """A judge on labelled replies."""

    path: Path
    found: Mapping[str, Any]
    """What ``Calibration.data`` holds, and the files of labels."""

    @property
    def judge(self) -> str:
        """Name and version."""
        return f"{self.found['judge']} ({self.found['version']})"

    @property
    def models(self) -> str:
        """Whose replies were labelled; empty where the labels do not say."""
        return ", ".join(self.found["models"])

    def is_of(self, settings: Any) -> bool:
        """Whether a task was judged by this judge, with the same settings."""
        return bool(settings == self.found["settings"])


def read_calibrations(paths: Sequence[Path]) -> tuple[Calibrated, ...]:
    """What stands in some files.

    Raises:
        DataError: one cannot be read, or is not what `steer judge calibrate --json` prints.
    """
    return tuple(_read(path) for path in paths)


def _read(path: Path) -> Calibrated:
    found = read_object(path)
    try:
        full = found["full"]
        texts = (found["judge"], found["version"], *dict(found["models"]))
        rates = [full["precision"], full["recall"]]
        given = [full["kappa"], *(rate[name] for rate in rates for name in ("rate", "low", "high"))]
        if not all(isinstance(one, str) for one in texts) or not isinstance(found["settings"], dict):
            raise TypeError("judge, version and models are texts, settings an object")
        if not is_number(*(found[name] for name in _NUMBERS), *(one for one in given if one is not None)):
            raise TypeError("a figure is no number")
        shares = [rate[name] for rate in rates for name in ("rate", "low", "high") if rate[name] is not None]
        if not all(0 <= one <= 1 for one in shares) or not 0 <= found["unscored"] <= found["n"]:
            raise TypeError("a share is above 1 or a number below 0")
    except (KeyError, TypeError, ValueError) as error:
        told = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise DataError(
            f"{path} is no calibration of a judge: {told}. Make it: steer judge calibrate --judge X --labels FILE "
            "--json > FILE."
        ) from error
    return Calibrated(path, found)


def calibration_table(found: Sequence[Calibrated], judged: Mapping[str, Sequence[str]]) -> Table:
    """A row for each; ``judged`` has the tasks that each judge judged, by its settings as JSON text."""
    header = (
        "judge",
        "tasks here",
        "labelled replies of",
        "replies",
        "unscored",
        "kappa, full refusal",
        "precision",
        "95 % interval",
        "recall",
        "95 % interval",
    )
    rows: list[tuple[Cell, ...]] = []
    for one in found:
        tasks = [task for told, names in judged.items() if one.is_of(json.loads(told)) for task in names]
        own = ", ".join(dict.fromkeys(tasks)) or "none: another judge, or with other settings"
        full = one.found["full"]
        rates = [cell for name in ("precision", "recall") for cell in _rate(full[name])]
        models = one.models or "models without a name"
        rows.append((one.judge, own, models, one.found["n"], one.found["unscored"], full["kappa"], *rates))
    return Table("calibration", "Calibration on labelled replies", header, rows)


def _rate(rate: Mapping[str, Any]) -> tuple[Cell, Cell]:
    if rate["rate"] is None or rate["low"] is None:
        return None, None
    return Share(rate["rate"]), Interval(Share(rate["low"]), Share(rate["high"]))
