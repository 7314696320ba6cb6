"""Broken replies told by a model: how likely the unsteered model finds them, too likely as well as too unlikely.

Rules see repetition, but not words in a senseless order. A reply that goes in circles is very likely token by token,
noise is very unlikely, and what the unsteered model writes itself lies between: it sets the limits.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from steer.errors import DataError, ModelError
from steer.judges.rules import Rules
from steer.judges.verdict import Exchange, Judge, Judgement, measured_by
from steer.models.batches import batches_of
from steer.models.model import LanguageModel

SHARE = 0.01  # of plain replies beyond each limit
_FEWEST = 30  # plain replies that limits are taken from
_SHORTEST = 5  # tokens: of fewer, the mean says little
_ROWS = 16  # replies in a batch


@dataclass(frozen=True)
class Limits:
    """Between which losses the unsteered model's own replies lie.

    Raises:
        DataError: ``low`` is not below ``high``.
    """

    low: float
    """Nats per token: what is more likely than that goes in circles."""
    high: float
    """Nats per token: what is less likely than that is noise."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise DataError(f"The lower limit of fluency must be below the upper one, got {self.low} and {self.high}.")


def losses(lm: LanguageModel, exchanges: Sequence[Exchange]) -> list[float | None]:
    """Mean negative log-likelihood of each reply's tokens after its conversation, in nats; None of very short replies.

    Raises:
        ModelError: the model is steered at the moment, so these would be the steered model's.
        DataError: see ``LanguageModel.prompt_ids``.
    """
    if lm.attachments:
        raise ModelError("The model is steered at the moment: judge fluency outside of the block that steers it.")
    tokens = lm.encode([one.reply for one in exchanges])
    found: list[float | None] = [None] * len(exchanges)
    long = [place for place, ids in enumerate(tokens) if len(ids) >= _SHORTEST]
    asked = lm.prompt_ids([list(exchanges[place].messages) for place in long])
    lengths = [len(prompt) + len(tokens[place]) for prompt, place in zip(asked, long, strict=True)]
    for batch in batches_of(lengths, _ROWS):
        places = [long[at] for at in batch]
        sums = lm.choice_logprobs([asked[at] for at in batch], [[tokens[place]] for place in places])
        for place, (total,) in zip(places, sums, strict=True):
            found[place] = -total / len(tokens[place])
    return found


def fit_limits(lm: LanguageModel, plain: Sequence[Exchange], share: float = SHARE) -> Limits:
    """Limits that ``share`` of the unsteered model's own replies lie beyond at each end.

    Raises:
        DataError: there are fewer than 30 replies long enough, or see ``losses``.
    """
    known = [one for one in losses(lm, plain) if one is not None]
    if len(known) < _FEWEST:
        raise DataError(
            f"Limits of fluency need at least {_FEWEST} plain replies of {_SHORTEST} tokens or more, got {len(known)}."
        )
    low, high = np.quantile(known, [share, 1 - share])
    return Limits(float(low), float(high))


@dataclass(frozen=True)
class Fluent:
    """Another judge (by default the rules), and incoherent besides whatever lies beyond the limits of fluency.

    About twice the share that the limits were fitted with is called incoherent among good replies, too: compare rates
    with those of the plain replies.
    """

    lm: LanguageModel
    """The unsteered model."""
    limits: Limits
    judge_of: Judge = field(default_factory=Rules)
    """Asked about replies between the limits."""

    @property
    def name(self) -> str:
        """Of the other judge, and ``fluent``."""
        return f"{self.judge_of.name}-fluent"

    @property
    def version(self) -> str:
        """Of the other judge."""
        return self.judge_of.version

    @property
    def measures(self) -> str:
        """What the other judge measures."""
        return measured_by(self.judge_of)

    def settings(self) -> dict[str, Any]:
        """Of the other judge; the model and the limits."""
        return {"judge": self.name, "of": self.judge_of.settings(), "model": self.lm.name, **asdict(self.limits)}

    def judge(self, exchanges: Sequence[Exchange]) -> list[Judgement]:
        """A judgement for each exchange, in their order.

        Raises:
            ModelError, DataError: see ``losses``.
        """
        said, known = self.judge_of.judge(exchanges), losses(self.lm, exchanges)
        return [self._with(one, loss) for one, loss in zip(said, known, strict=True)]

    def _with(self, said: Judgement, loss: float | None) -> Judgement:
        inside = loss is None or self.limits.low <= loss <= self.limits.high
        if inside or said.verdict in ("incoherent", "unscored"):
            return Judgement(said.verdict, self.name, self.version, said.score, said.reason, said.raw)
        beyond = f"{loss:.3f} nats per token, plain replies have {self.limits.low:.3f} to {self.limits.high:.3f}"
        harm = said.score if self.measures else None
        return Judgement("incoherent", self.name, self.version, harm, reason=beyond)
