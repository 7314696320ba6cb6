"""A task: prompts, how a completion is scored, and which figures come of the scores."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from steer.checks import seen_twice
from steer.errors import DataError
from steer.evals.sample import Sample
from steer.judges.verdict import Judgement
from steer.responders.responder import Responder

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Completion:
    """What a responder made of one sample."""

    sample_id: str
    text: str = ""
    """The reply; of samples that are scored by likelihood, the option taken."""
    logprobs: tuple[float, ...] = ()
    """Of samples scored by likelihood: of each option the sum of its tokens' log-probabilities, in nats."""
    finish: Literal["stop", "length", ""] = ""
    """Whether the reply ended by itself or at the limit of tokens; empty where nothing was generated."""
    tokens: int = 0
    """Of a text whose likelihood is scored: how many tokens it has."""
    failed: str = ""
    """Why there is none, such as a prompt that does not fit the model; such a sample is unscored."""
    cut: int = 0
    """Tokens of a raw text that were left out at its beginning, since the model's context is shorter."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Of conversations that a task conducts itself: everything that was said and judged, as JSON data."""


@dataclass(frozen=True)
class Score:
    """What one sample adds to the figures of its task."""

    figures: Mapping[str, float]
    """For each metric of the task the sample's part; metrics without a part here leave the sample out."""
    verdict: str = ""
    """In a word, for tables of samples: ``full_refusal``, ``correct``, ``wrong``, ..."""
    judgement: Judgement | None = None
    """Of tasks that ask a judge."""
    reason: str = ""
    """Why the sample is unscored."""

    @property
    def unscored(self) -> bool:
        """Whether there is nothing to count: shown apart, never counted as wrong or as compliance."""
        return not self.figures


def mean(parts: Sequence[float]) -> float:
    """The mean; what most metrics make of the samples' parts."""
    return sum(parts) / len(parts)


def every(sample: Sample) -> bool:
    """All samples; what most metrics are about."""
    return True


@dataclass(frozen=True)
class Metric:
    """A figure of a task."""

    name: str
    title: str
    better: Better
    of: Callable[[Sequence[float]], float] = mean
    """From the parts of the scored samples; where they are weighted, from their weighted mean alone."""
    main: bool = True
    """Whether it is one of those that the task is known by; the others say how it came about."""
    unit: str = ""
    """Tag whose values count alike, such as ``concept``: the figure is the mean over them of what ``of`` makes of each
    one's parts, with a t interval over them (Wilson's where all come to the same share). Empty: samples count alike."""
    harmonic_of: tuple[str, ...] = ()
    """With ``unit``: it is each one's harmonic mean of these figures; those that lack one of them do not count."""
    weight: str = ""
    """Name of the figure that the samples' parts are weighted with (words of a text, say); empty: all count alike."""
    about: Callable[[Sample], bool] = every
    """Which samples it is about; of the others unscored ones do not matter to it."""

    def value(self, scores: Sequence[Score]) -> float | None:
        """The figure of some samples; None where none of them has a part in it."""
        kept = [score.figures for score in scores if self.name in score.figures]
        parts = [figures[self.name] for figures in kept]
        if parts and self.weight:
            weights = [figures[self.weight] for figures in kept]
            parts = [sum(part * weight for part, weight in zip(parts, weights, strict=True)) / sum(weights)]
        return self.of(parts) if parts else None


@dataclass(frozen=True)
class Task:
    """Samples with their scoring. A task is made by a function of its module in ``steer/evals/tasks``.

    Raises:
        DataError: the name is none of a folder, there are no samples or no metrics, or two samples have the same id.
    """

    name: str
    samples: tuple[Sample, ...]
    score: Callable[[Sequence[Sample], Sequence[Completion]], list[Score]]
    """Scores of some samples in their order; it sees many at once so that a judge that is a model has its batches."""
    metrics: tuple[Metric, ...]
    """Those that are ``main`` first."""
    max_new_tokens: int = 256
    """Limit of a generated reply."""
    stop: tuple[str, ...] = ()
    """Texts at which a generated reply is cut, themselves left out."""
    temperature: float = 0.0
    """Of generated replies; 0 is greedy."""
    top_p: float = 1.0
    """See ``Sampling``."""
    seed: int = 0
    """Of sampled replies: that to the sample in place i (from 0) is drawn with ``seed + i``."""
    cluster: str = ""
    """Tag whose values group samples that go together (subject, type): for intervals, and for figures by group."""
    group: str = ""
    """Tag for figures by group where it is another one, such as the topic of several objectives."""
    repeat: str = ""
    """Tag that tells apart samples that ask the same several times, such as the number of the seed: figures are of all
    of them, and besides of each by itself. Empty: nothing is asked twice."""
    conduct: Callable[[Responder, Sequence[Sample], "Task"], Iterator[Completion]] | None = None
    """Makes completions itself, each given as it is finished, in any order: of conversations whose next turn depends
    on the last reply. None: a sample is completed by one reply, or by the likelihood of its choices."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Everything else that decides its figures, as JSON data: source and digest of the prompts, shots, template."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w .+@=,()-]{0,99}", self.name):
            raise DataError(
                f"A task's name is that of a folder: letters, digits and single signs, at most 100, got {self.name!r}."
            )
        if not self.samples or not self.metrics:
            raise DataError(f"The task {self.name} has no {'metrics' if self.samples else 'samples'}.")
        if twice := seen_twice(sample.id for sample in self.samples):
            raise DataError(f"{self.name}: the id {twice[0]!r} stands twice; ids must differ.")
