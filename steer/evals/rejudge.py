"""Judging the completions of a run anew, by another judge; the scores that were there stay."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from steer.digest import of_json
from steer.errors import DataError
from steer.evals.refusing import SCORING, refusal_task
from steer.evals.run import score_missing
from steer.evals.run_folder import RESULTS, RUN, SCORES, RunFolder
from steer.evals.summary import summary
from steer.evals.task import Task
from steer.evals.tasks import select
from steer.files import claimed, is_file, write_json
from steer.judges import JUDGES
from steer.judges.verdict import Judge
from steer.progress import Progress, Silent

JUDGED = (SCORING, select.SCORING)


def rejudge(path: Path, judge: Judge, progress: Progress | None = None) -> dict[str, Any]:
    """Score all completions of refusal tasks by ``judge``; returns what ``results.JUDGE.json`` holds.

    Scores are kept in ``TASK/scores.JUDGE.jsonl`` as they are made, so that a run that is stopped goes on.

    Raises:
        DataError: the folder holds no run, or none of its tasks asks for a refusal.
        OutputError: another run is writing there, or it cannot be written.
    """
    folder, mark = RunFolder(path), mark_of(judge)
    if not is_file(path / RUN):
        raise DataError(f"{path} holds no run of `steer eval`: {RUN} is missing.")
    names = [name for name in folder.tasks() if folder.task_settings(name)["settings"].get("scoring") in JUDGED]
    if not names:
        raise DataError(f"{path} has no task that asks for a refusal; there is nothing to judge.")
    with claimed(path):
        tasks = [task_of(folder, name, judge) for name in names]
        scores = score_missing(folder, tasks, progress or Silent(), SCORES.replace(".", f".{mark}.", 1))
        found = {task.name: summary(task, scores[task.name]) for task in tasks}
        results = {**folder.run(), "judge": judge.settings(), "tasks": found}
        write_json(path / RESULTS.replace(".", f".{mark}.", 1), results)
    return results


def task_of(folder: RunFolder, name: str, judge: Judge) -> Task:
    """A refusal task as its folder has it, with a judge."""
    about = folder.task_settings(name)
    if about["settings"]["scoring"] == select.SCORING:
        return select.select_task(name, folder.samples(name), judge, about["max_new_tokens"], about["settings"])
    settings = {**about["settings"], "judge": judge.settings()}
    task = refusal_task(name, folder.samples(name), judge, about["cluster"], about["max_new_tokens"], settings)
    return replace(task, stop=tuple(about["stop"]))


def mark_of(judge: Judge) -> str:
    """A judge in the name of a file: name and version, and of those that have more settings a digest of them all."""
    mark = re.sub(r"[^\w-]+", "-", f"{judge.name}-{judge.version}").strip("-")[:100]
    known = JUDGES.get(judge.name)
    if known is not None and known().settings() == judge.settings():
        return mark
    return f"{mark}-{of_json([judge.name, judge.version, judge.settings()])[:8]}"
