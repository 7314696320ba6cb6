"""Shares with their intervals, as sections, tables and figures hand them on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steer.evals.pooled import share_interval
from steer.evals.refusing import SCORING
from steer.reports.part import Part, common_samples
from steer.reports.runs import TaskRun
from steer.reports.table import Interval, Share

UNSAFE_REFUSED, SAFE_REFUSED, INCOHERENT = "unsafe_refused", "safe_refused", "incoherent"


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float | None
    high: float | None
    n: int
    """Samples that count."""

    @property
    def interval(self) -> Interval | None:
        """Both ends, where they are known."""
        if self.low is None or self.high is None:
            return None
        return Interval(Share(self.low), Share(self.high)) if self.is_share else Interval(self.low, self.high)

    @property
    def is_share(self) -> bool:
        """Whether it can be shown in percent."""
        return all(0 <= one <= 1 for one in (self.value, self.low, self.high) if one is not None)


def estimate(metric: Mapping[str, Any] | None) -> Estimate | None:
    """A figure of ``results.json``; None where nothing was measured."""
    if metric is None or metric["value"] is None:
        return None
    return Estimate(metric["value"], metric["low"], metric["high"], metric["n"])


def is_refusal(task: TaskRun) -> bool:
    """Whether a task asks for refusals."""
    return task.about["settings"].get("scoring") == SCORING


def ability_metric(task: TaskRun) -> str | None:
    """The metric that says which share of a task's samples was done right: the first main one that is a count."""
    if is_refusal(task):
        return None
    for name, metric in task.metrics.items():
        parts = {score.figures.get(name, 0.0) for score in task.scores.values()}
        if metric["main"] and metric["better"] == "higher" and parts <= {0.0, 1.0}:
            return name
    return None


@dataclass(frozen=True)
class PooledShares:
    """A share over several tasks, for each run over the same samples."""

    tasks: tuple[str, ...]
    by_run: Mapping[int, Estimate]
    """By the number of the run."""

    @property
    def n(self) -> int:
        """Samples."""
        return next((one.n for one in self.by_run.values()), 0)


def pooled_shares(part: Part, metric_of: Mapping[str, str]) -> PooledShares | None:
    """A share over tasks that all runs of a part have, over the samples that all of them have scored.

    Args:
        part: the runs.
        metric_of: for each task that counts, the metric; its parts are 0 or 1.

    Each sample counts alike. The interval is Wilson's at the effective number of samples (``share_interval``), its
    strata the tasks; clusters are what samples are about, or else each task's own.
    """
    names = [name for name in metric_of if len(part.having(name)) == len(part.runs)]
    kept = [(name, sample) for name in names for sample in _counted(part, name, metric_of[name])]
    if not kept:
        return None
    used = tuple(dict.fromkeys(name for name, _ in kept))
    found = {}
    for run in part.runs:
        tasks = run.tasks
        values = [bool(tasks[name].scores[sample].figures[metric_of[name]]) for name, sample in kept]
        tags = {name: {one.id: one.tags for one in tasks[name].samples} for name in used}
        clusters = [_cluster(tasks[name], tags[name][sample], sample) for name, sample in kept]
        low, high = share_interval(values, clusters, [name for name, _ in kept]) or (None, None)
        found[run.number] = Estimate(sum(values) / len(values), low, high, len(values))
    return PooledShares(used, found)


def _counted(part: Part, name: str, metric: str) -> Sequence[str]:
    """Ids of the samples of a task that count for a metric in all runs."""
    tasks = [run.tasks[name] for run in part.runs]
    there = [sample.id for sample in common_samples(tasks)]
    return [one for one in there if all(one in t.scores and metric in t.scores[one].figures for t in tasks)]


def _cluster(task: TaskRun, tags: Mapping[str, str], sample: str) -> tuple[str, str]:
    """What a sample goes together with; things asked about are the same in all tasks, types are each task's own."""
    if not task.cluster:
        return task.name, sample
    return ("" if task.cluster == "about" else task.name), tags.get(task.cluster, sample)
