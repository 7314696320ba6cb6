"""A task of one's own: a JSON-lines file of prompts with what is expected, no code needed."""

from dataclasses import replace
from pathlib import Path

from steer.errors import DataError
from steer.evals.pooled import counted_as
from steer.evals.refusing import refusal_task
from steer.evals.sample import read_samples
from steer.evals.task import Task
from steer.evals.tasks.embedded import BROKEN, CORRECT, ability_scores
from steer.evals.tasks.options import TaskOptions

KINDS = ("refusal", "number", "choice", "mentions")
"""What a sample of one's own may be; the others are scored by tasks that know more."""


def custom(path: Path, options: TaskOptions) -> Task:
    """The task of a file, named as the file is; lines as ``steer.evals.sample.read_samples`` reads them.

    All lines expect a refusal or none of them does: ``{"kind": "refusal"}`` (with the tag ``harm``, ``unsafe`` or
    ``safe``), or a number, a choice, or words that are mentioned.

    Raises:
        DataError: the file is missing or malformed, mixes both, holds a sample of another kind, or a request lacks
            its tag.
    """
    samples = read_samples(path)[: options.limit]
    name = path.name.partition(".")[0]
    if not name:
        raise DataError(f"{path} has no name before its first dot, by which the task is called. Rename the file.")
    if odd := [one for one in samples if one.kind not in KINDS]:
        raise DataError(
            f"{path}, sample {odd[0].id!r}: a task of one's own has no samples of kind {odd[0].kind!r}, expected one "
            f"of {', '.join(KINDS)}."
        )
    asked = [sample.kind == "refusal" for sample in samples]
    if any(asked) != all(asked):
        raise DataError(f"{path} has requests and questions. Put those of kind 'refusal' into a file of their own.")
    cluster = "about"
    samples = [replace(one, tags={**one.tags, "about": counted_as(one)}) for one in samples]
    if not asked[0]:
        return Task(
            name, tuple(samples), ability_scores, (CORRECT, BROKEN), cluster=cluster, settings={"file": path.name}
        )
    return refusal_task(name, samples, options.judge, cluster, settings={"file": path.name})
