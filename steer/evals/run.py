"""Running tasks with any responder, kept as it goes: ``run_tasks`` reads downwards.

A run that was stopped or killed goes on with the samples that are not there; none is completed or scored twice.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from steer.checks import require_whole, seen_twice
from steer.errors import DataError, ModelError, TooLongError
from steer.evals.complete import complete, one_by_one, way
from steer.evals.read import read_object
from steer.evals.run_folder import RESULTS, RunFolder, check_folder, clear
from steer.evals.sample import Sample
from steer.evals.summary import summary
from steer.evals.task import Completion, Score, Task
from steer.files import claimed, is_file, write_json
from steer.models.batches import batches_of, is_out_of_memory
from steer.models.chat import is_raw
from steer.models.model import LanguageModel
from steer.progress import Progress, Silent
from steer.responders.prompted import Unsteered
from steer.responders.responder import Responder, check_responder, fitted_on

SCORED_TOGETHER = 64  # completions that a judge sees at once


def run_tasks(
    responder: LanguageModel | Responder,
    tasks: Sequence[Task],
    out: Path,
    batch_size: int = 256,
    progress: Progress | None = None,
    about: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Complete and score every sample of every task; returns what ``results.json`` holds.

    Args:
        responder: a model as it is, or any way of answering with one.
        tasks: what is asked, and how it is scored.
        out: the folder of the run (``steer.evals.run_folder``); what is done in it already is not done again.
        batch_size: samples completed together, at most; halved where memory does not suffice.
        progress: where tasks and samples are shown.
        about: further settings that decide the completions, such as the model's revision.
        overwrite: remove the run that is there, and begin anew.

    Raises:
        ModelError: ``responder`` cannot answer, or memory does not suffice for one sample alone.
        OutputError: ``out`` holds another run, another run is writing there, or it cannot be written.
        DataError: there is no task, two have one name, replies leave no room for prompts, a prompt is refused by the
            chat template, or what is in the folder is damaged.
    """
    require_whole("batch_size", batch_size, DataError)
    if not tasks:
        raise DataError("There is nothing to ask: no task was given.")
    if twice := seen_twice(task.name for task in tasks):
        raise DataError(f"Two tasks are called {twice[0]}. Give each a name of its own.")
    responder = Unsteered(responder, batch_size) if isinstance(responder, LanguageModel) else responder
    check_responder(responder)
    for task in tasks:
        _check_room(responder.lm, task)
    progress, folder = progress or Silent(), RunFolder(out)
    run = {
        "schema": 1,
        "responder": responder.name,
        "settings": responder.settings(),
        **(about or {}),
    }
    if known := fitted_on(responder):
        run["fitted_on"] = sorted(known)
    started = time.perf_counter()
    check_folder(out, overwrite)
    with claimed(out):
        if overwrite:
            clear(out)
        folder.begin(run, tasks)
        earlier = _earlier(out)  # now, so that what is damaged is told before there is work to lose
        complete_missing(folder, responder, tasks, batch_size, progress)
        scores = score_missing(folder, tasks, progress)
        found = {task.name: summary(task, scores[task.name], known) for task in tasks}
        for task in tasks:
            if cut := sum(one.cut > 0 for one in folder.completions(task.name).values()):
                found[task.name]["cut"] = cut
        results = {
            **{name: one for name, one in run.items() if name != "fitted_on"},
            "tasks": {**earlier, **found},
            "seconds": round(time.perf_counter() - started, 3),
            "versions": {name: version(name) for name in ("torch", "transformers", "saesteer")},
        }
        write_json(out / RESULTS, results)
    return results


def _check_room(lm: LanguageModel, task: Task) -> None:
    """Raise DataError where no prompt could be answered, however short: that is a mistake, not bad luck."""
    if all(_no_room(lm, sample, task) for sample in task.samples):
        raise DataError(
            f"{task.name}: replies of {task.max_new_tokens} tokens leave no room for a prompt, since the model's "
            f"context is {lm.context}. Lower max_new_tokens (--max-new-tokens)."
        )


def _earlier(out: Path) -> dict[str, Any]:
    """The figures of tasks that were run into the folder before."""
    there = read_object(out / RESULTS).get("tasks", {}) if is_file(out / RESULTS) else {}
    if not isinstance(there, dict):
        raise DataError(f"{out / RESULTS} is not as an evaluation writes it: remove it, and the same command goes on.")
    return there


def complete_missing(
    folder: RunFolder, responder: Responder, tasks: Sequence[Task], batch_size: int, progress: Progress
) -> None:
    """Complete the samples that are not in the folder, those of similar length together, the longest first.

    Conversations that a task conducted and that failed, such as by a judge, are conducted anew.
    """
    there = {task.name: folder.completions(task.name) for task in tasks}
    done = {
        task.name: {id for id, one in there[task.name].items() if task.conduct is None or not one.failed}
        for task in tasks
    }
    places = {task.name: [i for i, one in enumerate(task.samples) if one.id not in done[task.name]] for task in tasks}
    if not (total := sum(map(len, places.values()))):
        return
    with progress.stage("answer", total=total):
        for task in tasks:
            for made in _completions(responder, task, places[task.name], batch_size, progress):
                folder.add_completions(task.name, made)
                progress.advance(len(made), task.name)


def _completions(
    responder: Responder, task: Task, places: Sequence[int], size: int, progress: Progress
) -> Iterator[list[Completion]]:
    """Batch by batch; where memory does not suffice for one it is tried again in halves."""
    if task.conduct is not None:
        yield from _conducted(responder, task, places, size, progress)
        return
    lm, samples = responder.lm, task.samples
    prompts = lm.prompt_ids([samples[place].messages for place in places])
    lengths = {place: len(ids) for place, ids in zip(places, prompts, strict=True)}
    if too_long := [place for place in places if _too_long(lm, samples[place], lengths[place], task)]:
        yield [
            Completion(samples[place].id, failed=_told_too_long(lm, samples[place], lengths[place], task))
            for place in too_long
        ]
    cut = {place: left_out for place in places if (left_out := _cut(lm, samples[place], lengths[place], task))}
    if cut:
        progress.note(
            f"{task.name}: {len(cut)} of {len(samples)} texts are longer than the model's context of {lm.context} "
            "tokens; their beginnings are left out, as lm-eval leaves them out"
        )
    for kind in dict.fromkeys(way(samples[place]) for place in places):
        left = [place for place in places if way(samples[place]) == kind and place not in too_long]
        while left:
            batch = [left[i] for i in batches_of([lengths[place] for place in left], size)[0]]
            try:
                with lm.running(batch, len(samples)):
                    done = _fitting(responder, [samples[place] for place in batch], task)
            except (RuntimeError, MemoryError) as error:
                size = _halved(error, len(batch), samples[batch[0]], progress)
                continue
            yield [replace(one, cut=cut.get(place, 0)) for place, one in zip(batch, done, strict=True)]
            finished = set(batch)
            left = [place for place in left if place not in finished]


def _fitting(responder: Responder, samples: Sequence[Sample], task: Task) -> list[Completion]:
    """Completions; what the responder puts before a prompt may be what makes it too long."""
    try:
        return complete(responder, samples, task)
    except TooLongError as error:
        if len(samples) == 1:
            return [Completion(samples[0].id, failed=str(error))]
    return one_by_one(responder, samples, lambda alone: _fitting(responder, alone, task))


def _conducted(
    responder: Responder, task: Task, places: Sequence[int], size: int, progress: Progress
) -> Iterator[list[Completion]]:
    """The same for a task that conducts its conversations: one by one, as they are finished."""
    assert task.conduct is not None
    left = {task.samples[place].id: task.samples[place] for place in places}
    while left:
        batch = list(left.values())[:size]
        try:
            for done in task.conduct(responder, batch, task):
                yield [done]
                del left[done.sample_id]
        except (RuntimeError, MemoryError) as error:
            size = _halved(error, len(batch), batch[0], progress)


def _too_long(lm: LanguageModel, sample: Sample, length: int, task: Task) -> bool:
    """Whether what follows has no room behind the prompt; raw texts are cut, and windows of texts scored."""
    if lm.context is None or way(sample) == "text" or is_raw(sample.messages):
        return False
    return length + (task.max_new_tokens if way(sample) == "reply" else 0) > lm.context


def _no_room(lm: LanguageModel, sample: Sample, task: Task) -> bool:
    """Whether even a prompt of one token is too long; of a raw one, whether nothing of it can stay."""
    if way(sample) == "reply" and is_raw(sample.messages):
        return lm.context is not None and 1 + task.max_new_tokens > lm.context
    return _too_long(lm, sample, 1, task)


def _told_too_long(lm: LanguageModel, sample: Sample, length: int, task: Task) -> str:
    behind = f"with {task.max_new_tokens} of reply" if way(sample) == "reply" else "without what follows"
    return f"the prompt has {length} tokens; {behind} the model's context is {lm.context}"


def _cut(lm: LanguageModel, sample: Sample, length: int, task: Task) -> int:
    """Tokens of a raw prompt that are left out, so that the reply, or all but the last token of an option, fits."""
    if lm.context is None or way(sample) == "text" or not is_raw(sample.messages):
        return 0
    if way(sample) == "reply":
        return max(0, length + task.max_new_tokens - lm.context)
    options = sample.expect["choices"]
    if length + max(len(one.encode()) for one in options) <= lm.context + 1:  # no token is shorter than a byte
        return 0
    return max(0, length + max(map(len, lm.encode(list(options)))) - lm.context - 1)


def _halved(error: Exception, size: int, sample: Sample, progress: Progress) -> int:
    """Half the batch where memory did not suffice; any other error goes on its way."""
    if not is_out_of_memory(error):
        raise error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if size == 1:
        raise ModelError(
            f"Memory does not suffice for sample {sample.id!r} alone. Use a smaller number format (--dtype bfloat16), "
            "shorter replies, or another device. What is done is kept."
        ) from error
    progress.note(f"memory does not suffice for {size} samples together; going on with {size // 2}")
    return size // 2


def score_missing(folder: RunFolder, tasks: Sequence[Task], progress: Progress) -> dict[str, dict[str, Score]]:
    """Score the completions that have no score; all scores by task and sample id.

    What a judge left unscored is tried again.
    """
    scores = {task.name: folder.scores(task.name) for task in tasks}
    made = {task.name: folder.completions(task.name) for task in tasks}
    missing = {task.name: _missing(task, made[task.name], scores[task.name]) for task in tasks}
    if not (total := sum(map(len, missing.values()))):
        return scores
    with progress.stage("score", total=total):
        for task in tasks:
            for start in range(0, len(missing[task.name]), SCORED_TOGETHER):
                group = missing[task.name][start : start + SCORED_TOGETHER]
                for found in _scores(task, group, made[task.name]):
                    folder.add_scores(task.name, found)
                    scores[task.name] |= found
                progress.advance(len(group), task.name)
    return scores


def _scores(task: Task, samples: Sequence[Sample], made: Mapping[str, Completion]) -> Iterator[dict[str, Score]]:
    """Scores by sample id, as they are made: a judge may take long, and may fail for good on the way.

    Where there is no completion there is nothing to score.
    """
    failed = [sample for sample in samples if made[sample.id].failed]
    there = [sample for sample in samples if not made[sample.id].failed]
    if failed:
        yield {one.id: Score({}, "unscored", reason=made[one.id].failed) for one in failed}
    completions = [made[sample.id] for sample in there]
    if there and hasattr(task.score, "each"):
        for place, score in task.score.each(there, completions):
            yield {there[place].id: score}
    elif there:
        yield {sample.id: score for sample, score in zip(there, task.score(there, completions), strict=True)}


def _missing(task: Task, made: Mapping[str, Completion], scores: Mapping[str, Score]) -> list[Sample]:
    """Samples that are completed, and have no score, or no verdict though there is something to judge."""
    done = [sample for sample in task.samples if sample.id in made]
    return [one for one in done if one.id not in scores or (scores[one.id].unscored and not made[one.id].failed)]
