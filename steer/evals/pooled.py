"""Rates of a set, of several sets, or of several runs: prompts that are about one thing are no independent draws."""

from collections.abc import Hashable, Sequence

from steer.evals.sample import Sample
from steer.evals.stats import clustered_wilson, wilson


def counted_as(sample: Sample) -> str:
    """What a prompt counts as where several are pooled: what it is about.

    Sums are told apart by their numbers, not by what is counted in them.
    """
    return sample.id if sample.kind == "number" else sample.about()


def pooled_interval(samples: Sequence[Sample], values: Sequence[bool]) -> tuple[float, float]:
    """95 % interval of the share of true ``values``, one for each reply to the sample that stands beside it.

    Sets and prompts share what they are about, so that is what is drawn (``clustered_wilson``); how sets differ is no
    luck of the draw. Several replies to one prompt count as about one thing.
    """
    found = share_interval(values, [counted_as(one) for one in samples], [one.set for one in samples])
    return found or (0.0, 1.0)


def share_interval(
    values: Sequence[bool], clusters: Sequence[Hashable], strata: Sequence[Hashable] | None = None
) -> tuple[float, float] | None:
    """95 % interval of the share of true ``values``, of which those of one cluster go together; None without values.

    The one way of all tasks, reports and sweeps: ``clustered_wilson``, and Wilson's where each value of a single
    stratum is a cluster of its own.
    """
    if values and strata is None and len(set(clusters)) == len(clusters):
        return wilson(sum(values), len(values))
    return clustered_wilson(values, clusters, strata)
