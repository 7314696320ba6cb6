"""Who judged, and how far people agree on these very replies."""

import json
from collections.abc import Mapping, Sequence

from steer.reports.calibrations import Calibrated, calibration_table
from steer.reports.estimates import is_refusal
from steer.reports.labels import Labelled, labelled
from steer.reports.part import Part, Section
from steer.reports.runs import Run
from steer.reports.table import Cell, Interval, Share, Table, shown


def judging(part: Part, calibrations: Sequence[Calibrated] = ()) -> Section | None:
    """None where no task asks for refusals; ``calibrations`` are shown beside, with the tasks that they are about."""
    asked = {run: [name for name, task in part.tasks_of(run).items() if is_refusal(task)] for run in part.runs}
    asking = {run: names for run, names in asked.items() if names}
    if not asking:
        return None
    words = [
        "Refusals are as good as their judge, and a judge that is right about one model can be wrong about another, or "
        "about the same model when it is steered."
    ]
    if anew := [run.label for run in asking if run.judge]:
        words.append(
            f"Judged anew by steer rejudge: {', '.join(anew)}. Labels in the folder of such a run were drawn by the "
            "verdicts of its own judge, and are not used here."
        )
    found = {run: None if run.judge else labelled(part, run) for run in asking}
    words += [f"Run {run.label}: {_told(one)}" for run, one in found.items() if one is not None]
    if without := [run.label for run, one in found.items() if one is None and not run.judge]:
        words.append(
            f"Not calibrated on {'these runs' if len(without) > 1 else 'this run'}: {', '.join(without)}. Nobody has "
            "labelled replies of it (steer judge label), so how often the judge is wrong here is not known."
        )
    by_judge = _by_judge(asking)
    if len(by_judge) > 1:
        words.append(
            "More than one judge, or one with different settings: figures of one do not compare with another's."
        )
    if calibrations:
        words.append(
            "The calibration is of the labelled replies that it names. It tells what the judge is like, not how often "
            "it is wrong about these runs, unless the replies are theirs: no rate is corrected by it."
        )
        judged = {told: [name for names in runs.values() for name in names] for told, runs in by_judge.items()}
        calibrated: tuple[Table, ...] = (calibration_table(calibrations, judged),)
    else:
        calibrated = ()
    rows = [row for run, one in found.items() if one is not None for row in _rows(run, one)]
    header = ("run", "judge's verdict", "replies", "labelled", "labelled the same", "95 % interval", "labels")
    agreement = (Table("labels", "People against the judge", header, rows),) if rows else ()
    return Section("judge", "The judge", words, tables=(_judges(by_judge), *calibrated, *agreement))


def _by_judge(asking: Mapping[Run, Sequence[str]]) -> dict[str, dict[Run, list[str]]]:
    """By judge, its settings as JSON text, the tasks that it judged in each run."""
    found: dict[str, dict[Run, list[str]]] = {}
    for run, names in asking.items():
        for name in names:
            told = json.dumps(run.tasks[name].about["settings"].get("judge", {}), ensure_ascii=False, sort_keys=True)
            found.setdefault(told, {}).setdefault(run, []).append(name)
    return found


def _judges(by_judge: Mapping[str, Mapping[Run, Sequence[str]]]) -> Table:
    """A row for each judge and tasks that it judged, with the runs in which it did."""
    rows: list[tuple[Cell, ...]] = []
    for judge, runs in by_judge.items():
        for tasks in dict.fromkeys(", ".join(names) for names in runs.values()):
            numbers = [str(run.number) for run, names in runs.items() if ", ".join(names) == tasks]
            rows.append((judge, tasks, ", ".join(numbers)))
    return Table("judges", "Judges", ("judge", "tasks", "runs"), rows)


def _told(found: Labelled) -> str:
    told = f"people labelled {found.n:,} of {sum(found.replies.values()):,} judged replies."
    if found.full_refusals is None:
        return f"{told} Some verdict has no label yet, so nothing can be said of the whole."
    one = found.full_refusals
    kappa = "" if found.kappa is None else f" Kappa for full refusal: {found.kappa:.2f}."
    return (
        f"{told} Full refusals: {shown(Share(one.observed))} % by the judge, {shown(Share(one.rate))} % as the labels "
        f"correct it, 95 % interval {shown(Interval(Share(one.low), Share(one.high)))}, each verdict weighted by its "
        f"replies.{kappa}"
    )


def _rows(run: Run, found: Labelled) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for verdict, n in found.replies.items():
        if n or found.counts[verdict]:
            share, interval = found.agreed(verdict) or (None, None)
            labels = ", ".join(f"{count} {label.replace('_', ' ')}" for label, count in found.counts[verdict].items())
            told = verdict.replace("_", " ")
            rows.append((run.label, told, n, found.counts[verdict].total(), share, interval, labels or "none"))
    return rows
