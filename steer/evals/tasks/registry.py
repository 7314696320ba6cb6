"""The tasks by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from steer.checks import hint, seen_twice
from steer.errors import DataError
from steer.evals.sets import SETS
from steer.evals.task import Task
from steer.evals.tasks import capability, harmful_instructions, or_bench, safety_tuned_llamas
from steer.evals.tasks.crescendo import crescendo
from steer.evals.tasks.custom import custom
from steer.evals.tasks.embedded import embedded
from steer.evals.tasks.harmbench import harmbench
from steer.evals.tasks.oktest import oktest
from steer.evals.tasks.options import TaskOptions
from steer.evals.tasks.select import select
from steer.evals.tasks.wildguardtest import wildguardtest
from steer.evals.tasks.xstest import xstest
from steer.files import is_file

TASKS: Mapping[str, Callable[[TaskOptions], Task]] = {
    "xstest": xstest,
    "oktest": oktest,
    "harmbench": harmbench,
    "wildguardtest": wildguardtest,
    **{name: harmful_instructions.harmful_instructions(name) for name in harmful_instructions.SOURCES},
    **{name: or_bench.or_bench(name) for name in or_bench.CONFIGS},
    **{name: safety_tuned_llamas.safety_tuned_llamas(name) for name in safety_tuned_llamas.NAMES},
    **{name: capability.capability(name) for name in capability.NAMES},
    "crescendo": crescendo,
    "select_atoms": select("atoms"),
    "select_compositions": select("compositions"),
    **{name: embedded(name) for name in SETS},
}
GROUPS: Mapping[str, Sequence[str]] = {
    "embedded": tuple(SETS),
    "safety_tuned_llamas": tuple(safety_tuned_llamas.NAMES),
    "truthfulqa": ("truthfulqa_mc1", "truthfulqa_mc2"),
    "capability": ("mmlu", "truthfulqa_mc1", "truthfulqa_mc2", "gsm8k"),
    "select": ("select_atoms", "select_compositions"),
}
"""Names that stand for several tasks."""


def tasks_of(names: Sequence[str], options: TaskOptions) -> list[Task]:
    """The tasks of some names, of groups, or of one's own .jsonl files, each once.

    Raises:
        DataError: there is no name, one is unknown, two tasks are called the same, or a task's data is not to be had.
    """
    if not names:
        raise DataError(f"There is nothing to ask: no task was given. {hint('', [*TASKS, *GROUPS], 'The tasks are')}")
    asked = [one for name in names for one in GROUPS.get(name, (name,))]
    tasks = [_task(name, options) for name in dict.fromkeys(asked)]
    if options.max_new_tokens is not None:
        tasks = [replace(task, max_new_tokens=options.max_new_tokens) for task in tasks]
    if twice := seen_twice(task.name for task in tasks):
        raise DataError(f"Two tasks are called {twice[0]}. Rename the file of one of them.")
    return tasks


def _task(name: str, options: TaskOptions) -> Task:
    if name in TASKS:
        return TASKS[name](options)
    if name.endswith(".jsonl") or is_file(Path(name)):
        return custom(Path(name), options)
    raise DataError(
        f"Unknown task {name!r}. {hint(name, [*TASKS, *GROUPS], 'The tasks are')} A .jsonl file is one too."
    )
