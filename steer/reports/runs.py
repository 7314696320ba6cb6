"""The runs that a report tells of: the folders of evaluations, read whole and checked."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer.errors import DataError
from steer.evals.compare import check_judges
from steer.evals.rejudge import anew
from steer.evals.run_folder import RESULTS, RUN, RunFolder
from steer.evals.sample import Sample
from steer.evals.task import Completion, Score
from steer.files import is_file
from steer.studies.text import is_number

SPLITS = ("test", "", "dev")
"""In the order of a report; the empty one is that of sets which have no dev and test part."""


@dataclass(frozen=True)
class TaskRun:
    """One task of one run."""

    name: str
    split: str
    """One of ``SPLITS``."""
    about: Mapping[str, Any]
    """``task.json``."""
    found: Mapping[str, Any]
    """Its figures as ``results.json`` has them."""
    samples: tuple[Sample, ...]
    completions: Mapping[str, Completion]
    scores: Mapping[str, Score]

    @property
    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        """Figures by metric: value, low, high, n, title, better, main."""
        return self.found["metrics"]

    @property
    def cluster(self) -> str:
        """The tag whose values group samples; empty where none does."""
        return self.about["cluster"]


@dataclass(frozen=True, eq=False)
class Run:
    """One run, in the order in which the folders were given."""

    number: int
    """From 1; the others are compared with the first."""
    name: str
    """Who answered."""
    path: Path
    judge: str
    """The mark of the judge that judged it anew, whose verdicts these are (``RunFolder.mark``); empty: its own."""
    about: Mapping[str, Any]
    """``run.json``."""
    seconds: float | None
    versions: Mapping[str, str]
    tasks: Mapping[str, TaskRun]
    unfinished: Mapping[str, str]
    """What is missing of tasks without figures, or with more samples than the figures are of."""

    @property
    def folder(self) -> RunFolder:
        """Where it is kept, as its judge has it."""
        return RunFolder(self.path, self.judge)

    @property
    def label(self) -> str:
        """Number and name, since two runs may have one name."""
        return f"{self.number}. {self.name}"


def read_runs(folders: Sequence[Path], judge: str = "") -> list[Run]:
    """The runs of some folders, with the verdicts of ``judge`` if one is named (``steer.evals.rejudge.anew``).

    Raises:
        DataError: there are no folders, one is given twice, holds no finished task of a run, was not judged by the
            judge, or is damaged; or a task is of dev in one run and of test in another, or judged in two ways.
    """
    if not folders:
        raise DataError("A report needs the folder of at least one run.")
    places = [path.resolve() for path in folders]
    if twice := [path for path, place in zip(folders, places, strict=True) if places.count(place) > 1]:
        raise DataError(f"{twice[0]} is given twice; a run is compared with others, not with itself.")
    runs = [_read(number, path, judge) for number, path in enumerate(folders, start=1)]
    _check_splits(runs)
    for run in runs[1:]:
        check_judges(runs[0].folder, run.folder)
    return runs


def split_words(split: str) -> str:
    """A split as titles name it."""
    return f"{split} split" if split else "sets without a split"


def _read(number: int, path: Path, judge: str) -> Run:
    if not is_file(path / RUN):
        raise DataError(f"{path} holds no run of `steer eval`: {RUN} is missing.")
    if not is_file(path / RESULTS):
        raise DataError(f"The run in {path} did not finish: {RESULTS} is missing. Call the same `steer eval` again.")
    folder = anew(path, judge)
    about, results = folder.run(), folder.results()
    with _damaged(path / RESULTS):
        found = {str(name): one for name, one in results["tasks"].items()}
        seconds = results["seconds"] if is_number(results.get("seconds")) else None
        versions = {str(name): str(one) for name, one in results.get("versions", {}).items()}
    tasks, unfinished = {}, {}
    for name in [
        *(one for one in found if one in folder.tasks()),
        *(one for one in folder.tasks() if one not in found),
    ]:
        if name not in found:
            unfinished[name] = "not finished, and left out: call the same `steer eval` again"
            continue
        tasks[name] = _task(folder, name, found[name])
        if (there := len(tasks[name].samples)) != found[name]["n"]:
            unfinished[name] = f"figures are of {found[name]['n']} samples, while the folder has {there} by now"
    if not tasks:
        raise DataError(f"{path} holds no finished task.")
    with _damaged(path / RUN):
        return Run(number, str(about["responder"]), path, folder.mark, about, seconds, versions, tasks, unfinished)


def _task(folder: RunFolder, name: str, found: Mapping[str, Any]) -> TaskRun:
    about = folder.task_settings(name)
    with _damaged(folder.path / name):
        split = about["settings"].get("split", "")
        if split not in SPLITS:
            raise ValueError(f"the split is dev or test, got {split!r}")
        if (measured := found.get("settings", about["settings"]).get("split", "")) != split:
            raise ValueError(f"the figures are of the split {measured!r}, the task of {split!r}")
        if not isinstance(about["cluster"], str) or not isinstance(about["metrics"], list):
            raise TypeError("cluster and metrics are of another type")
        _check_figures(found)
        samples = tuple(folder.samples(name))
        completions, scores = folder.completions(name), folder.scores(name)
        for score in scores.values():
            if not isinstance(score.verdict, str) or not is_number(*score.figures.values()):
                raise TypeError("a score is no number")
        if not all(isinstance(one.text, str) for one in completions.values()):
            raise TypeError("a reply is no text")
    return TaskRun(name, split, about, found, samples, completions, scores)


def _check_figures(found: Mapping[str, Any]) -> None:
    """What figures and tables take for granted."""
    if not is_number(found["n"], found["unscored"]):
        raise TypeError("n and unscored are numbers")
    for metrics in (found["metrics"], *(group["metrics"] for group in found.get("groups", {}).values())):
        for one in metrics.values():
            if not all(one[key] is None or is_number(one[key]) for key in ("value", "low", "high", "n")):
                raise TypeError("a figure is no number")
    for one in found["metrics"].values():
        if not isinstance(one["title"], str) or not isinstance(one["main"], bool):
            raise TypeError("a metric has no title")
        if one["better"] not in ("higher", "lower") or not is_number(*one.get("if_unscored", ())):
            raise ValueError("a metric is malformed")


def _check_splits(runs: Sequence[Run]) -> None:
    """One task is of one split: figures on dev are for choosing, and stand beside no figure on test."""
    first: dict[str, tuple[str, Run]] = {}
    for run in runs:
        for name, task in run.tasks.items():
            split, other = first.setdefault(name, (task.split, run))
            if split != task.split:
                raise DataError(
                    f"{name} is of {split_words(split)} in {other.path} and of {split_words(task.split)} in "
                    f"{run.path}: figures on dev and on test are not put side by side. "
                    "Run the same --split, or report them apart."
                )


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """Tell of a file that holds something else than an evaluation writes."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        told = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise DataError(f"{path} is damaged: {told}. Run the evaluation again, with --overwrite.") from error
