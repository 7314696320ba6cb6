"""The page of a report: what its template is given."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from steer.reports.flips import Flip
from steer.reports.notes import task_settings
from steer.reports.part import Part, Section
from steer.reports.runs import Run
from steer.reports.table import shown
from steer.studies.page import render_page

SHOWN = 400  # samples that flipped, about as many a part; the file has all
FOLDED = 320  # characters of a text, from which on it is folded
HEADINGS = {
    "test": "Results on the test split",
    "": "Figures of sets without a split",
    "dev": "Development figures, dev split",
}


@dataclass(frozen=True)
class ToldPart:
    """A part with everything that the page says of it."""

    part: Part
    sections: Sequence[Section]
    flips: Sequence[Flip]
    notes: Sequence[str]
    images: Mapping[str, Mapping[str, str]]
    """Of sections with a figure, by name: ``light`` and ``dark`` as data URIs."""


def render(runs: Sequence[Run], parts: Sequence[ToldPart], files: str) -> str:
    """The page.

    Args:
        runs: all of them.
        parts: what is told of each split.
        files: the name of the folder of figures and tables.
    """
    template = resources.files("steer.reports").joinpath("page.html")
    context: dict[str, Any] = {
        "runs": runs,
        "models": ", ".join(dict.fromkeys(str(run.about.get("model", "a model")) for run in runs)),
        "parts": parts,
        "heading": HEADINGS,
        "only_dev": [one.part.split for one in parts] == ["dev"],
        "has_dev": any(one.part.split == "dev" for one in parts),
        "picked": {one.part.mark: picked(one.flips) for one in parts},
        "folded": FOLDED,
        "files": files,
        "task_settings": task_settings,
    }
    return render_page(template, context, {"shown": shown, "pretty": pretty})


def picked(found: Sequence[Flip]) -> list[Flip]:
    """The first of each task and run, as many of each as have room."""
    groups: dict[tuple[int, str], list[Flip]] = defaultdict(list)
    for one in found:
        groups[one.run.number, one.task].append(one)
    room = max(3, SHOWN // len(groups)) if groups else 0
    return [one for group in groups.values() for one in group[:room]]


def pretty(value: Mapping[str, Any] | list[Any] | str | int | float | None) -> str:
    """Settings as people read them: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
