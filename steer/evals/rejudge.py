"""Judging the completions of a run anew, by another judge; the scores that were there stay."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from steer.digest import of_json
from steer.errors import DataError
from steer.evals.refusing import SCORING, refusal_task
from steer.evals.run import score_missing
from steer.evals.run_folder import RESULTS, RUN, RunFolder, marked
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

    Scores are kept in ``TASK/scores.JUDGE.jsonl`` as they are made, so that a run that is stopped goes on, and what was
    asked of the judge in ``TASK/task.JUDGE.json``. ``steer compare`` and ``steer report`` read them by ``anew``.

    Raises:
        DataError: the folder holds no run, or none of its tasks asks for a refusal.
        OutputError: another run is writing there, or it cannot be written.
    """
    folder = RunFolder(path)
    if not is_file(path / RUN):
        raise DataError(f"{path} holds no run of `steer eval`: {RUN} is missing.")
    run = folder.run()
    if not (names := _asking(folder)):
        raise DataError(f"{path} has no task that asks for a refusal; there is nothing to judge.")
    with claimed(path):
        tasks = [task_of(folder, name, judge) for name in names]
        own = RunFolder(path, mark_of(judge))
        for task in tasks:
            own.begin_anew(task)
        scores = score_missing(own, tasks, progress or Silent())
        found = {task.name: summary(task, scores[task.name], run.get("fitted_on", ())) for task in tasks}
        results = {**run, "judge": judge.settings(), "tasks": found}
        write_json(path / marked(RESULTS, own.mark), results)
    return results


def anew(path: Path, judge: str) -> RunFolder:
    """The folder of a run as a judge found it: one that judged it anew, or its own.

    Args:
        path: the folder.
        judge: name of the judge, such as ``prefix``, or the beginning of what stands in ``results.JUDGE.json``; empty:
            the run's own, whichever that is.

    Raises:
        DataError: the run was not judged by it, or by several of that name.
    """
    if not judge:
        return RunFolder(path)
    wanted = _slug(judge)
    marks = _marks(path)
    found = [wanted] if wanted in marks else [mark for mark in marks if mark.startswith(f"{wanted}-")]
    if len(found) == 1:
        return RunFolder(path, found[0])
    if found:
        raise DataError(f"{path} was judged by several of the name {judge}: {', '.join(found)}. Give the whole of one.")
    own = sorted(_own_judges(RunFolder(path)))
    if wanted in map(_slug, own):
        return RunFolder(path)
    known = f" Its own judge is {', '.join(own)}." if own else ""
    known += f" It was judged anew by {', '.join(marks)}." if marks else ""
    raise DataError(f"{path} was not judged by {judge}.{known} Judge it: steer rejudge {path} --judge {judge}.")


def _marks(path: Path) -> list[str]:
    """Marks of the judges that judged a run anew, to the end."""
    named = {one.name.removeprefix("results.").removesuffix(".json") for one in path.glob("results.*.json")}
    asked = {one.name.removeprefix("task.").removesuffix(".json") for one in path.glob("*/task.*.json")}
    return sorted(named & asked)  # without its settings of tasks it is of an earlier release: judged once more


def _own_judges(folder: RunFolder) -> set[str]:
    """Names of the judges whose verdicts the run's own scores are."""
    scores = [one for name in _asking(folder) for one in folder.scores(name).values()]
    return {one.judgement.judge for one in scores if one.judgement is not None}


def _asking(folder: RunFolder) -> list[str]:
    """The tasks that can be judged anew."""
    return [name for name in folder.tasks() if folder.task_settings(name)["settings"].get("scoring") in JUDGED]


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
    mark = _slug(f"{judge.name}-{judge.version}")[:100]
    known = JUDGES.get(judge.name)
    if known is not None and known().settings() == judge.settings():
        return mark
    return f"{mark}-{of_json([judge.name, judge.version, judge.settings()])[:8]}"


def _slug(text: str) -> str:
    """A name as it stands in the name of a file."""
    return re.sub(r"[^\w-]+", "-", text).strip("-")
