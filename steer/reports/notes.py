"""What readers must know before they compare: runs that are not alike, and what is missing."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from steer.reports.part import Part
from steer.reports.runs import Run, TaskRun

GIVEN = ("model", "revision", "dtype")  # of run.json; the responder is what differs on purpose


def notes(part: Part) -> list[str]:
    """Sentences; none where all runs asked the same in the same way."""
    found = [f"{run.label}, {task}: {told}." for run in part.runs for task, told in run.unfinished.items()]
    for name in GIVEN:
        if told := _differing(part.runs, [run.about.get(name) for run in part.runs]):
            found.append(f"Runs differ in {name}: {told}.")
    for task in part.tasks:
        having = part.having(task)
        if len(having) < len(part.runs):
            lacking = ", ".join(f"run {run.number}" for run in part.runs if run not in having)
            found.append(f"{task}: not asked of {lacking}.")
        asked = [_asked(run.tasks[task]) for run in having]
        for name in dict.fromkeys(key for one in asked for key in one):
            if told := _differing(having, [one.get(name) for one in asked]):
                found.append(f"{task}: runs differ in {name.replace('_', ' ')}: {told}.")
        cut = {run.number: run.tasks[task].found.get("cut", 0) for run in having}
        if any(cut.values()):
            told = ", ".join(f"run {number}: {n}" for number, n in cut.items() if n)
            found.append(f"{task}: texts whose beginning was left out, since the model's context is shorter: {told}.")
        for run in having:
            if leaked := run.tasks[task].found.get("fitted_on"):
                found.append(
                    f"{task}: {leaked} of {len(run.tasks[task].samples)} prompts are among those that run "
                    f"{run.number} was fitted or chosen on. Its figures flatter it: choose and report on different "
                    "prompts."
                )
        unscored = {run.number: run.tasks[task].found["unscored"] for run in having}
        if any(unscored.values()):
            told = ", ".join(f"run {number}: {n}" for number, n in unscored.items() if n)
            found.append(f"{task}: unscored samples, which count for nothing (the table has bounds): {told}.")
    return found


def _asked(task: TaskRun) -> dict[str, Any]:
    """What decides the figures of a task besides who answers."""
    about = task.about
    return {
        "number_of_samples": len(task.samples),
        "max_new_tokens": about.get("max_new_tokens"),
        "stop": about.get("stop"),
        "samples": about.get("digest") if isinstance(about.get("digest"), str) else None,
        **about["settings"],
    }


def _differing(runs: Sequence[Run], values: Sequence[Any]) -> str:
    """Each run's value, in short; empty where they are the same."""
    told = [_short(value) for value in values]
    if len(set(told)) < 2:
        return ""
    return "; ".join(f"run {run.number}: {one}" for run, one in zip(runs, told, strict=True))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= 60 else f"{text[:57]}..."


def task_settings(task: TaskRun) -> Mapping[str, Any]:
    """The settings of a task for the page: what was asked, and how it is scored."""
    return {
        **{key: one for key, one in task.about.items() if key not in ("name", "metrics", "settings")},
        **_rest(task),
    }


def _rest(task: TaskRun) -> dict[str, Any]:
    return {key: one for key, one in task.about["settings"].items() if key not in task.about}
