"""The ten sets of the embedded model, each a task (docs/demo.md says how they are made and what they stand for)."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from steer.evals.pooled import counted_as
from steer.evals.refusing import HARMFUL, HARMLESS, refusal_task
from steer.evals.sample import Sample
from steer.evals.scoring import judge, judge_choice
from steer.evals.sets import SETS, load_prompts
from steer.evals.task import Completion, Metric, Score, Task
from steer.evals.tasks.options import TaskOptions

CORRECT = Metric("correct", "right", "higher")
BROKEN = Metric("incoherent", "broken replies", "lower", main=False)


def embedded(name: str) -> Callable[[TaskOptions], Task]:
    """The task of one set. Clusters are what prompts are about: a thing asked about twice is one piece of evidence."""

    def task(options: TaskOptions) -> Task:
        found = load_prompts(name, options.split, options.limit)
        samples = [replace(one, tags={**one.tags, "about": counted_as(one)}) for one in found]
        settings = {"split": options.split}
        way = SETS[name]
        if way.metric == "refused":
            kind = HARMFUL if way.better == "higher" else HARMLESS
            tagged = [replace(one, tags={**one.tags, "harm": kind}) for one in samples]
            return refusal_task(name, tagged, options.judge, "about", max_new_tokens=48, settings=settings)
        return Task(name, tuple(samples), ability_scores, (CORRECT, BROKEN), 48, cluster="about", settings=settings)

    return task


def ability_scores(samples: Sequence[Sample], completions: Sequence[Completion]) -> list[Score]:
    """Right or wrong, by number, by mention, or by the likeliest choice. Logits that are not finite are unscored."""
    return [_score(sample, made) for sample, made in zip(samples, completions, strict=True)]


def _score(sample: Sample, made: Completion) -> Score:
    if sample.kind != "choice":
        found = judge(sample, made.text)
    else:
        _, found = judge_choice(sample, made.logprobs)
        if found.verdict == "incoherent":
            return Score({}, "unscored", reason="log-probabilities are not finite")
    return Score({"correct": float(found.value), "incoherent": float(found.verdict == "incoherent")}, found.verdict)
