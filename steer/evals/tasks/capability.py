"""The capability tasks with the options that all tasks are made with."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from steer.errors import DataError
from steer.evals.task import Task
from steer.evals.tasks.gsm8k import gsm8k
from steer.evals.tasks.mmlu import mmlu
from steer.evals.tasks.options import TaskOptions
from steer.evals.tasks.truthfulqa import truthfulqa_mc1, truthfulqa_mc2
from steer.evals.tasks.truthfulqa_gen import truthfulqa_gen
from steer.evals.tasks.wikitext import wikitext
from steer.files import is_there

_MADE: Mapping[str, tuple[Callable[..., Task], str]] = {
    "mmlu": (mmlu, "mmlu"),
    "mmlu_5shot": (partial(mmlu, shots=5), "mmlu"),
    "truthfulqa_mc1": (truthfulqa_mc1, "truthfulqa/mc_task.json"),
    "truthfulqa_mc2": (truthfulqa_mc2, "truthfulqa/mc_task.json"),
    "truthfulqa_gen": (truthfulqa_gen, "truthfulqa/TruthfulQA.csv"),
    "gsm8k": (gsm8k, "gsm8k/test.jsonl"),
    "wikitext": (wikitext, "wikitext2/test.txt"),
}
"""For each name the function, and where below the data folder its file is."""
TEMPLATED = "_chat"
"""Ends the names of tasks whose prompts go through the chat template; without it they are plain text."""
NAMES = (*_MADE, *(f"{name}{TEMPLATED}" for name in _MADE if name != "wikitext"))


def capability(name: str) -> Callable[[TaskOptions], Task]:
    """The function that makes the task of a name, from the data folder where its file is there, else from the hub.

    GSM8K's examples are the first rows of ``gsm8k/train.jsonl``; without that file a folder's GSM8K has none.
    The function raises DataError where there is no file and the network is not to be used.
    """
    make, path = _MADE[name.removesuffix(TEMPLATED)]

    def made(options: TaskOptions) -> Task:
        given = {"chat": True} if name.endswith(TEMPLATED) else {}
        file = None if options.data is None else options.data / path
        if file is not None and is_there(file):
            train = file.with_name("train.jsonl")
            more: dict[str, Path] = {"train": train} if make is gsm8k and is_there(train) else {}
            task = make(file, limit=options.limit, **given, **more)
        elif options.offline:
            raise DataError(f"The data of {name} are not here. Give the folder that holds {path} with --data.")
        else:
            task = make(limit=options.limit, **given)
        return Task(**{**vars(task), "name": name})

    return made
