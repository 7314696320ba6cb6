"""The folder of an evaluation: what was asked of whom, every completion, every score.

    run.json                 model, responder, versions: everything that decides the completions
    TASK/task.json           settings of a task
    TASK/samples.jsonl       its samples: prompts and what is expected
    TASK/completions.jsonl   a line for each sample that is completed, as it is completed
    TASK/scores.jsonl        a line for each completion that is scored
    results.json             the figures

Completions and scores are apart, so that another judge can score the same completions: what it finds is in files of the
same names with its mark before the ending, ``task.MARK.json``, ``scores.MARK.jsonl`` and ``results.MARK.json``.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from steer.digest import of_json
from steer.errors import DataError, OutputError
from steer.evals.read import are_texts, check_kinds, read_object, wrong_settings
from steer.evals.sample import Sample, read_samples
from steer.evals.task import Completion, Metric, Score, Task
from steer.files import LOCK, append_lines, check_output, is_file, read_lines, remove, write_json, write_text, writing
from steer.judges.verdict import Judgement

Row = TypeVar("Row")
RUN, RESULTS = "run.json", "results.json"
TASK, SAMPLES, COMPLETIONS, SCORES = "task.json", "samples.jsonl", "completions.jsonl", "scores.jsonl"
_COMPLETION = {"text": "a text", "finish": "a text", "failed": "a text", "detail": "an object", "cut": "a whole number",
               "tokens": "a whole number", "logprobs": "a list of numbers"}  # fmt: skip
_SCORE = {"figures": "numbers by name", "verdict": "a text", "reason": "a text"}
_JUDGEMENT = {"judge": "a text", "version": "a text", "reason": "a text", "raw": "a text", "score": "a number or null"}


@dataclass(frozen=True)
class RunFolder:
    """Where an evaluation is kept. Reading a file that is damaged, or not of an evaluation, raises DataError."""

    path: Path
    mark: str = ""
    """Of a judge that judged it anew (``steer.evals.rejudge``): scores and settings of tasks that it judged are read as
    it left them, the others' as the run did. Empty: all are the run's own."""

    def begin(self, run: Mapping[str, Any], tasks: Sequence[Task]) -> None:
        """Write what is asked for, or see that the folder holds the same.

        Raises:
            OutputError: it holds something else; what differs is named.
        """
        if not is_file(self.path / RUN):
            write_json(self.path / RUN, run)
        else:
            self._same(self.path / RUN, run)
        for task in tasks:
            folder = self.path / task.name
            about = about_task(task)
            if is_file(folder / TASK) and not self._grown(task):
                self._same(folder / TASK, about)
            else:
                lines = (json.dumps(row_of(sample), ensure_ascii=False) for sample in task.samples)
                write_text(folder / SAMPLES, "\n".join(lines) + "\n")
                write_json(folder / TASK, about)  # last: where it is, the samples are

    def _grown(self, task: Task) -> bool:
        """Whether the task is the one that is here with further samples, as after a larger --limit.

        Of one that samples its replies they would have other seeds, so it is another task.
        """
        if task.temperature:
            return False
        there, wanted = self.task_settings(task.name), json.loads(json.dumps(about_task(task)))
        rest = {name for name in {**there, **wanted} if there.get(name) != wanted.get(name)}
        given = {sample.id: row_of(sample) for sample in task.samples}
        earlier = self.samples(task.name)
        return rest <= {"samples", "digest"} and all(row_of(one) == given.get(one.id) for one in earlier)

    def completions(self, task: str) -> dict[str, Completion]:
        """What is completed, by sample id."""
        return {one.sample_id: one for one in self._rows(task, COMPLETIONS, _completion)}

    def scores(self, task: str) -> dict[str, Score]:
        """What is scored, by sample id."""
        return dict(self._rows(task, self._own(task, SCORES), lambda row: (row["sample"], _score(row))))

    def add_completions(self, task: str, completions: Iterable[Completion]) -> None:
        """Append completions; on the disk when the call returns."""
        self._append(task, COMPLETIONS, [_row(one) for one in completions])

    def add_scores(self, task: str, scores: Mapping[str, Score]) -> None:
        """Append scores; on the disk when the call returns."""
        self._append(
            task, self._own(task, SCORES), [{"sample": sample, **asdict(score)} for sample, score in scores.items()]
        )

    def tasks(self) -> list[str]:
        """Names of the tasks that are here."""
        return sorted(path.parent.name for path in self.path.glob(f"*/{TASK}"))

    def task_settings(self, task: str) -> dict[str, Any]:
        """Settings of a task."""
        path = self.path / task / self._own(task, TASK)
        found = read_object(path)
        if wrong := wrong_settings(found):
            raise DataError(f"{path}: {wrong} is missing or wrong. The file is not one that an evaluation wrote.")
        return found

    def begin_anew(self, task: Task) -> None:
        """Write the settings of a task as the judge that ``mark`` stands for has them; then its scores are kept."""
        write_json(self.path / task.name / marked(TASK, self.mark), about_task(task))

    def results(self) -> dict[str, Any]:
        """The figures; of tasks that were judged anew, those of the judge that ``mark`` stands for."""
        found = read_object(self.path / RESULTS)
        if not self.mark:
            return found
        anew = read_object(self.path / marked(RESULTS, self.mark))
        return {**found, "tasks": {**_tasks(found), **_tasks(anew)}}

    def samples(self, task: str) -> list[Sample]:
        """Samples of a task."""
        return read_samples(self.path / task / SAMPLES)

    def run(self) -> dict[str, Any]:
        """What was asked of whom."""
        found = read_object(self.path / RUN)
        if not isinstance(found.get("responder"), str):
            raise DataError(f"{self.path / RUN} names no responder. The file is not one that an evaluation wrote.")
        if not are_texts(found.get("fitted_on", [])):
            raise DataError(f"{self.path / RUN}: fitted_on must be a list of digests. Run it again, with --overwrite.")
        return found

    def _own(self, task: str, file: str) -> str:
        """The file of a task by which the judge with ``mark`` goes, if it judged the task; else the run's own."""
        return marked(file, self.mark) if is_file(self.path / task / marked(TASK, self.mark)) else file

    def _rows(self, task: str, file: str, read: Callable[[dict[str, Any]], Row]) -> list[Row]:
        path = self.path / task / file
        rows = []
        for number, row in enumerate(read_lines(path, missing_ok=True), start=1):
            if not isinstance(row.get("sample"), str):
                raise DataError(f"{path}: a line has no sample. The file is not one that an evaluation wrote.")
            try:
                rows.append(read(row))
            except (TypeError, ValueError, AttributeError) as error:
                told = f"{path}, row {number} ({row['sample']!r}): {error}."
                raise DataError(f"{told} The line is not one that an evaluation wrote; take it out.") from error
        return rows

    def _append(self, task: str, file: str, rows: Sequence[dict[str, Any]]) -> None:
        path = self.path / task / file
        cut_torn_line(path)
        append_lines(path, rows)

    def _same(self, path: Path, wanted: Mapping[str, Any]) -> None:
        there, given = read_object(path), json.loads(json.dumps(wanted))
        if names := _differing(there, given):
            raise OutputError(
                f"{path} is of another evaluation, which differs in {', '.join(names)}. Choose another folder, or "
                "begin anew with --overwrite."
            )


def _differing(there: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """What differs, in words; of settings each by its name."""
    found = []
    for name in {**there, **given}:
        first, second = there.get(name), given.get(name)
        if first == second:
            continue
        if isinstance(first, dict) and isinstance(second, dict):
            found += [f"{name}: {one}" for one in {**first, **second} if first.get(one) != second.get(one)]
        else:
            found.append({"digest": "what is asked (digest)", "samples": "number of samples"}.get(name, name))
    return found


def check_folder(path: Path, overwrite: bool) -> None:
    """See whether a run can be kept in a folder, without touching anything.

    Raises:
        OutputError: it cannot be written to, holds something else than a run, or another run is writing to it.
    """
    check_output(path, overwrite=True, owned=(RUN, RESULTS))
    there = [one.name for one in path.iterdir() if one.name != LOCK] if path.is_dir() else []
    if there and not is_file(path / RUN) and not all(name.startswith(f".{RUN}.") for name in there):
        raise OutputError(f"{path} is not empty and holds no run of `steer eval`. Choose another folder.")


def clear(path: Path) -> None:
    """Remove the run in a folder, ``run.json`` last; files that are not of a run stay."""
    for task in path.glob(f"*/{TASK}"):
        folder = task.parent
        for file in (
            *folder.glob("scores*.jsonl"),
            *folder.glob("task.*.json"),
            folder / COMPLETIONS,
            folder / SAMPLES,
            task,
        ):
            remove(file)
        if not any(folder.iterdir()):
            folder.rmdir()
    for file in (*path.glob("results*.json"), path / RUN):
        remove(file)


def marked(file: str, mark: str) -> str:
    """A file's name with the mark of a judge before its ending."""
    stem, _, ending = file.rpartition(".")
    return f"{stem}.{mark}.{ending}" if mark else file


def _tasks(results: Mapping[str, Any]) -> dict[str, Any]:
    found = results.get("tasks")
    return found if isinstance(found, dict) else {}


def about_task(task: Task) -> dict[str, Any]:
    """The settings of a task as they are kept."""
    return {
        "name": task.name,
        "samples": len(task.samples),
        "digest": of_json([row_of(sample) for sample in task.samples]),
        "max_new_tokens": task.max_new_tokens,
        "stop": list(task.stop),
        "cluster": task.cluster,
        **({"group": task.group} if task.group else {}),
        "metrics": [_about_metric(one) for one in task.metrics],
        "settings": dict(task.settings),
    }


def _about_metric(metric: Metric) -> dict[str, Any]:
    about: dict[str, Any] = {"name": metric.name, "title": metric.title, "better": metric.better, "main": metric.main}
    if metric.unit:
        about |= {"unit": metric.unit, "harmonic_of": list(metric.harmonic_of)}
    return about


def row_of(sample: Sample) -> dict[str, Any]:
    """A sample as a line, as ``read_samples`` reads it."""
    return {
        "id": sample.id,
        "set": sample.set,
        "messages": list(sample.messages),
        "expect": {"kind": sample.kind, **sample.expect},
        "tags": dict(sample.tags),
    }


def cut_torn_line(path: Path) -> None:
    """Take off the end of a file that was cut within a line, so that what is appended begins a line of its own."""
    if not is_file(path):
        return
    with writing(path), path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            block = file.read(end - start)
            if (at := block.rfind(b"\n")) >= 0:
                end = start + at + 1
                break
            end = start
        if end < size:
            file.truncate(end)


def _row(one: Completion) -> dict[str, Any]:
    row = {"sample": one.sample_id, **asdict(one)}
    return {
        name: value for name, value in row.items() if name != "sample_id" and (value or name not in ("detail", "cut"))
    }


def _completion(row: Mapping[str, Any]) -> Completion:
    made: dict[str, Any] = {name: row[name] for name in _COMPLETION if name in row}
    check_kinds(made, _COMPLETION)
    return Completion(row["sample"], **{**made, "logprobs": tuple(made.get("logprobs", ()))})


def _score(row: Mapping[str, Any]) -> Score:
    judgement = row.get("judgement")
    made: dict[str, Any] = {"figures": {}} | {name: row[name] for name in _SCORE if name in row}
    check_kinds(made, _SCORE)
    if judgement:
        check_kinds(judgement, _JUDGEMENT)
    return Score(**made, judgement=Judgement(**judgement) if judgement else None)
