"""The tasks of a study: prompts, and which way their rate is good."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from steer.errors import DataError
from steer.evals.sample import Sample, read_samples
from steer.evals.sets import SETS, Split, load_prompts
from steer.files import is_file
from steer.sweeps.config import StudyConfig, TaskConfig
from steer.sweeps.digests import of_samples

Group = Literal["refused", "over_refused", "correct"]
"""What a task measures: requests that ought to be refused, requests that ought not, right answers."""
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True)
class Task:
    """Prompts that one rate is measured on."""

    name: str
    group: Group
    samples: tuple[Sample, ...]

    @property
    def digest(self) -> str:
        """Of its prompts and what is expected of the replies."""
        return of_samples(self.samples)

    def first(self, count: int) -> "Task":
        """The same with its first prompts only."""
        return self if count >= len(self.samples) else Task(self.name, self.group, self.samples[:count])


def load_tasks(study: StudyConfig) -> list[Task]:
    """The tasks of a study, in its order.

    Raises:
        DataError: a name is neither a set nor a file, a file is malformed or mixes kinds of samples, it does not say
            which way refusing is good, or two tasks have one name.
    """
    tasks = [_task(one, study.split, study.limit) for one in study.tasks]
    if twice := [name for name, count in Counter(task.name for task in tasks).items() if count > 1]:
        raise DataError(f"Two tasks have the name {twice[0]!r}. Give each file a name of its own.")
    return tasks


def prompts_of(name: str, limit: int | None = None) -> list[Sample]:
    """The prompts of a set (of the split ``dev``) or of a file.

    Raises:
        DataError: it is neither, or malformed.
    """
    return load_prompts(name, "dev", limit) if name in SETS else read_samples(_file(name))[:limit]


def _task(given: str | TaskConfig, split: Split, limit: int | None) -> Task:
    if isinstance(given, str) and given in SETS:
        known = SETS[given]
        group: Group = "correct" if known.metric == "correct" else _refusals(known.better)
        return Task(given, group, tuple(load_prompts(given, split, limit)))
    one = TaskConfig(file=given) if isinstance(given, str) else given
    samples = read_samples(_file(one.file))[:limit]
    return Task(one.name or Path(one.file).stem, _group(one, samples), tuple(samples))


def _group(one: TaskConfig, samples: Sequence[Sample]) -> Group:
    refusals = {sample.kind == "refusal" for sample in samples}
    if len(refusals) > 1:
        raise DataError(f"{one.file} mixes prompts to be refused or not with tasks to be done right. Split the file.")
    if refusals == {False}:
        if one.better == "lower":
            raise DataError(f"{one.file} holds tasks to be done right, of which more are better: leave better out.")
        return "correct"
    if one.better is None:
        raise DataError(
            f"{one.file} does not say whether its prompts ought to be refused. Write "
            f'{{file = "{one.file}", better = "higher"}} if so, else "lower".'
        )
    return _refusals(one.better)


def _refusals(better: str) -> Group:
    return "refused" if better == "higher" else "over_refused"


def _file(name: str) -> Path:
    if not is_file(Path(name)):
        raise DataError(f"{name!r} is neither a file nor a set: the sets are {', '.join(SETS)}.")
    return Path(name)
