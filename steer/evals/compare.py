"""Comparing runs on the same samples: each with the first, task by task, metric by metric."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steer.errors import DataError
from steer.evals.paired import holm, paired
from steer.evals.rejudge import anew
from steer.evals.run_folder import RUN, RunFolder
from steer.evals.sample import Sample
from steer.evals.summary import digests, of_units
from steer.evals.task import Metric, Score
from steer.files import is_file

JUDGING = ("scoring", "judge", "beside", "attacker", "rater", "turns", "backtracks", "threshold")
"""Settings of a task that decide what a reply, or an attempt, counts for."""
ANSWERING = ("model", "revision", "dtype")
"""Of a run: what decides its replies besides the responder, which differs on purpose."""
DECODING = ("max_new_tokens", "stop")
"""The same of a task."""


def compare(folders: Sequence[Path], judge: str = "") -> dict[str, Any]:
    """Paired differences of all runs from the first, as JSON data; by ``judge`` if one is named (``rejudge.anew``).

    Only samples that both runs have scored count. The p-values of the main metrics are one family: ``p_holm`` is
    Holm's. ``notes`` says, in sentences, what else differs than who answers, and who was fitted on what is asked.

    Raises:
        DataError: fewer than two folders, one holds no run, they have no task with the same samples in common, or one
            was judged by different judges.
    """
    if len(folders) < 2:
        raise DataError(f"At least two folders are compared, got {len(folders)}.")
    if lost := [path for path in folders if not is_file(path / RUN)]:
        raise DataError(f"{lost[0]} holds no run of `steer eval`: {RUN} is missing.")
    base, *others = (anew(path, judge) for path in folders)
    rows, told = [], _fitted(base)
    for other in others:
        check_judges(base, other)
        if not (found := differences(base, other)):
            raise DataError(
                f"{base.path} has no task with the same samples and scores in common with {other.path}. Run the same "
                "tasks with the same --limit and --split."
            )
        rows += found
        told += [*_unlike(base, other), *_fitted(other)]
    return {
        "base": base.run()["responder"],
        "folders": [str(path) for path in folders],
        "rows": adjusted(rows),
        "notes": told,
    }


def _unlike(base: RunFolder, other: RunFolder) -> list[str]:
    """What decides the replies of both runs and is not the same, besides who answers."""
    first, second = base.run(), other.run()
    pairs = [(name, first.get(name), second.get(name)) for name in ANSWERING]
    for task in (name for name in other.tasks() if name in base.tasks()):
        own, its = base.task_settings(task), other.task_settings(task)
        pairs += [(f"{name} of {task}", own[name], its[name]) for name in DECODING]
    return [
        f"{base.path} and {other.path} differ in {name}: {before!r} and {after!r}. The difference is of that, too."
        for name, before, after in pairs
        if before != after
    ]


def _fitted(run: RunFolder) -> list[str]:
    """Of each task that asks what the responder was fitted on, how many prompts these are."""
    if not (known := run.run().get("fitted_on", [])):
        return []
    found = {task: [not digests(one).isdisjoint(known) for one in run.samples(task)] for task in run.tasks()}
    return [
        f"{task}: {sum(each)} of {len(each)} prompts are among those that the responder of {run.path} was fitted or "
        "chosen on. Its figures flatter it."
        for task, each in found.items()
        if any(each)
    ]


def adjusted(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, those of main metrics with ``p_holm``: their p-values are one family."""
    ps = iter(holm([row["p"] for row in rows if row["main"]]))
    return [{**row, "p_holm": next(ps)} if row["main"] else dict(row) for row in rows]


def differences(base: RunFolder, other: RunFolder) -> list[dict[str, Any]]:
    """Paired differences of a run from another, a row for each metric of each task with samples in common."""
    names = [name for name in other.tasks() if name in base.tasks()]
    return [row for name in names for row in _of_task(base, other, name)]


def _of_task(base: RunFolder, other: RunFolder, task: str) -> list[dict[str, Any]]:
    about = base.task_settings(task)
    samples = {sample.id: sample for sample in base.samples(task)}
    common = [sample for sample in other.samples(task) if sample == samples.get(sample.id)]
    first, second = base.scores(task), other.scores(task)
    rows = []
    for metric in about["metrics"]:
        pairs = _of_units(common, first, second, metric) if metric.get("unit") else None
        if pairs is None:
            samplewise = _pairs(common, first, second, metric["name"])
            pairs = [(one.tags.get(about["cluster"], one.id), a, b) for one, a, b in samplewise]
        if pairs:
            clusters, before, after = zip(*pairs, strict=True)
            found = paired(before, after, clusters)
            rows.append(
                {
                    "run": other.run()["responder"],
                    "folder": str(other.path),
                    "task": task,
                    "split": about["settings"].get("split", ""),
                    "metric": metric["name"],
                    "title": metric["title"],
                    "better": metric["better"],
                    "main": metric["main"],
                    **asdict(found),
                    "unscored": [_unscored(common, first), _unscored(common, second)],
                }
            )
    return rows


def check_judges(base: RunFolder, other: RunFolder) -> None:
    """See that what both runs were asked was judged alike: two judges differ without anything having changed.

    Raises:
        DataError: a task was not.
    """
    for task in sorted({*base.tasks()} & {*other.tasks()}):
        first, second = (folder.task_settings(task)["settings"] for folder in (base, other))
        if odd := [name for name in JUDGING if first.get(name) != second.get(name)]:
            raise DataError(
                f"{task} was judged in one way in {base.path} and in another in {other.path} ({odd[0]} differs): such "
                "figures cannot be compared. Judge both alike by steer rejudge, and name that judge here with --judge; "
                "or run one of both again into another folder."
            )


def _pairs(
    samples: Sequence[Sample], first: dict[str, Score], second: dict[str, Score], metric: str
) -> list[tuple[Sample, float, float]]:
    found = []
    for sample in samples:
        a, b = (scores[sample.id].figures.get(metric) if sample.id in scores else None for scores in (first, second))
        if a is not None and b is not None:
            found.append((sample, a, b))
    return found


def _of_units(
    samples: Sequence[Sample], first: dict[str, Score], second: dict[str, Score], about: dict[str, Any]
) -> list[tuple[str, float, float]]:
    """Figures of each unit in both runs, of the samples that both have scored."""
    metric = Metric(about["name"], "", about["better"], unit=about["unit"], harmonic_of=tuple(about["harmonic_of"]))
    scored = [one for one in samples if all(one.id in run and not run[one.id].unscored for run in (first, second))]
    a, b = (of_units(metric, [(one, run[one.id]) for one in scored]) for run in (first, second))
    return [(name, a[name], b[name]) for name in a if name in b]


def _unscored(samples: Sequence[Sample], scores: dict[str, Score]) -> int:
    return sum(sample.id in scores and scores[sample.id].unscored for sample in samples)
