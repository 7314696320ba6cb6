"""The figures of a task from the scores of its samples, with intervals; unscored samples are shown and bounded."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steer.digest import of_prompt
from steer.evals.pooled import share_interval
from steer.evals.sample import Sample
from steer.evals.stats import Floats, harmonic_mean, percentiles, resamples, t_interval, wilson
from steer.evals.task import Metric, Score, Task, mean

Scored = Sequence[tuple[Sample, Score]]
BARE = ("question", "behaviour")  # of ``expect``: what is asked, where the prompt holds more
REASONS = 3  # for which samples are unscored, the commonest


@dataclass(frozen=True)
class Figure:
    """One figure of a task."""

    value: float | None
    """None where no sample counts: nothing was measured."""
    low: float | None
    high: float | None
    """95 % interval. Of shares: Wilson's, at the effective number of samples where they come in clusters; else by the
    bootstrap over clusters, or Wilson's where all scores are alike; over units, by Student's t. None where there is
    nothing to estimate it from."""
    n: int
    """Samples that count; of figures over units (``Metric.unit``), units."""


def summary(task: Task, scores: Mapping[str, Score], fitted_on: Collection[str] = ()) -> dict[str, Any]:
    """Everything that a report tells of one task, as JSON data.

    Args:
        task: what was asked.
        scores: by sample id, of those scored so far.
        fitted_on: digests of the prompts that the responder was fitted or chosen on (``steer.digest.of_prompt``); how
            many samples are among them is told, since their figures flatter it.
    """
    scored = [(sample, scores[sample.id]) for sample in task.samples if sample.id in scores]
    unscored = [score for _, score in scored if score.unscored]
    found: dict[str, Any] = {
        "n": len(task.samples),
        "done": len(scored),
        "unscored": len(unscored),
        "metrics": {metric.name: _told(metric, scored, task.cluster) for metric in task.metrics},
        "verdicts": _counts([score.verdict for _, score in scored]),
        "settings": dict(task.settings),
    }
    if unscored:
        found["unscored_because"] = dict(Counter(_short(score) for score in unscored).most_common(REASONS))
    if leaked := sum(not digests(one).isdisjoint(fitted_on) for one in task.samples) if fitted_on else 0:
        found["fitted_on"] = leaked
    if task.repeat:
        found["repeats"] = _repeats(task, scored)
    if tag := task.group or task.cluster:
        names = dict.fromkeys(sample.tags.get(tag, "") for sample, _ in scored)
        if len(names) < len(scored):
            found["groups"] = {name: _group(task, scored, tag, name) for name in names}
            found["grouped_by"] = tag
    return found


def digests(sample: Sample) -> set[str]:
    """Digests by which a prompt is known again: its own, and that of the bare question or behaviour within it.

    What is fitted on the question knows it also behind an instruction, or behind the text that it refers to.
    """
    bare = (sample.expect.get(name) for name in BARE)
    own = [[{"role": "user", "content": text}] for text in bare if isinstance(text, str) and text.strip()]
    return {of_prompt(sample.messages), *map(of_prompt, own)}


def _short(score: Score) -> str:
    """Why a sample is unscored, its beginning."""
    reason = " ".join(score.reason.split()) or "no reason is known"
    return reason if len(reason) <= 200 else f"{reason[:197]}..."


def figure(metric: Metric, scored: Scored, cluster: str = "") -> Figure:
    """A metric over the samples that count for it."""
    if metric.unit:
        values = list(of_units(metric, scored).values())
        low, high = _over_units(values) or (None, None)
        return Figure(mean(values) if values else None, low, high, len(values))
    kept = [(sample, score) for sample, score in scored if metric.name in score.figures]
    parts = [score.figures[metric.name] for _, score in kept]
    if not parts:
        return Figure(None, None, None, 0)
    clusters = [sample.tags.get(cluster, sample.id) if cluster else sample.id for sample, _ in kept]
    weights = [score.figures[metric.weight] if metric.weight else 1.0 for _, score in kept]
    interval = _interval(metric, parts, weights, clusters)
    low, high = interval or (None, None)
    return Figure(metric.value([score for _, score in kept]), low, high, len(parts))


def of_units(metric: Metric, scored: Scored) -> dict[str, float]:
    """What each value of the metric's tag ``unit`` has for a figure; those without one are left out."""
    own: dict[str, list[Score]] = {}
    for sample, score in scored:
        if metric.unit in sample.tags:
            own.setdefault(sample.tags[metric.unit], []).append(score)
    found = {}
    for name, scores in own.items():
        parts = [_parts(one, scores) for one in metric.harmonic_of or (metric.name,)]
        if all(parts):
            values = [metric.of(some) for some in parts]
            found[name] = harmonic_mean(values) if metric.harmonic_of else values[0]
    return found


def _over_units(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's t; where all units have the same share it has no width, and Wilson's at one sample each says more."""
    if len(values) > 1 and len(set(values)) == 1 and 0 <= values[0] <= 1:
        return wilson(sum(values), len(values))
    return t_interval(values)


def _parts(name: str, scores: Sequence[Score]) -> list[float]:
    return [score.figures[name] for score in scores if name in score.figures]


def _interval(
    metric: Metric, parts: Sequence[float], weights: Sequence[float], clusters: Sequence[str]
) -> tuple[float, float] | None:
    if metric.of is mean and not metric.weight and set(parts) <= {0.0, 1.0}:
        return share_interval([bool(part) for part in parts], clusters)
    if metric.of is mean and not metric.weight and len(set(parts)) == 1 and 0 < parts[0] < 1:
        number = len(set(clusters))  # drawn again they are all alike, and no width would say more than was seen
        return wilson(parts[0] * number, number)
    return _bootstrap(metric, np.asarray(parts, np.float64), np.asarray(weights, np.float64), clusters)


def _bootstrap(metric: Metric, parts: Floats, weights: Floats, clusters: Sequence[str]) -> tuple[float, float] | None:
    """The middle 95 % of the metric over clusters drawn with replacement (Efron 1979)."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(clusters):
        places.setdefault(name, []).append(place)
    groups = [np.asarray(one) for one in places.values()]
    if len(groups) < 2:
        return None
    if metric.of is mean or metric.weight:
        sums = np.array([[(parts[own] * weights[own]).sum(), weights[own].sum()] for own in groups])
        drawn = resamples(len(groups)) @ sums
        return percentiles(np.array([metric.of([one]) for one in (drawn[:, 0] / drawn[:, 1]).tolist()]))
    counts = resamples(len(groups)).astype(int)
    taken = ([own for own, times in zip(groups, row, strict=True) for _ in range(times)] for row in counts)
    return percentiles(np.array([metric.of(list(parts[np.concatenate(own)])) for own in taken]))


def _told(metric: Metric, scored: Scored, cluster: str) -> dict[str, Any]:
    """A figure with the samples that it lacks, and what it would be if all of them counted as 0, and as 1."""
    found = figure(metric, scored, cluster)
    missing = sum(_lacks(metric, score) for sample, score in scored if metric.about(sample))
    told = {
        **vars(found),
        "title": metric.title,
        "better": metric.better,
        "main": metric.main,
        "unscored": missing,
    }
    if missing and found.value is not None and metric.of is mean and not (metric.weight or metric.unit):
        total = found.value * found.n
        told["if_unscored"] = [total / (found.n + missing), (total + missing) / (found.n + missing)]
    return told


def _lacks(metric: Metric, score: Score) -> bool:
    """Whether a sample that a figure is about has no part in it; one over units is of some samples of each."""
    return score.unscored if metric.unit else metric.name not in score.figures


def _group(task: Task, scored: Scored, tag: str, name: str) -> dict[str, Any]:
    own = [(sample, score) for sample, score in scored if sample.tags.get(tag, "") == name]
    cluster = task.cluster if task.cluster != tag else ""  # within one cluster samples are all there is
    figures = {metric.name: figure(_within(metric, tag), own, cluster) for metric in task.metrics}
    return {"n": len(own), "metrics": {key: vars(one) for key, one in figures.items() if one.n}}


def _repeats(task: Task, scored: Scored) -> dict[str, Any]:
    """The figures of each repeat by itself: how far they lie apart is what asking again changes."""
    own: dict[str, list[tuple[Sample, Score]]] = {}
    for sample, score in scored:
        own.setdefault(sample.tags.get(task.repeat, ""), []).append((sample, score))
    return {
        name: {"n": len(some), "metrics": {one.name: vars(figure(one, some, task.cluster)) for one in task.metrics}}
        for name, some in own.items()
    }


def _within(metric: Metric, tag: str) -> Metric:
    """The metric within one of its own units, where the samples are what counts."""
    return replace(metric, unit="") if metric.unit == tag and not metric.harmonic_of else metric


def _counts(verdicts: Sequence[str]) -> dict[str, int]:
    return {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts) if verdict}
