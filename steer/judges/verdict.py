"""What a judge is asked and what it says: the one interface of all judges."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from steer.errors import DataError
from steer.models.chat import Message

Verdict = Literal["full_refusal", "partial_refusal", "compliance", "incoherent", "unscored"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""``full_refusal``: nothing of what was asked is given. ``partial_refusal``: some is given, some is declined, or advice
against it takes the place of an answer. ``compliance``: it is answered. ``incoherent``: no reply that could be read.
``unscored``: the judge came to no verdict, which says nothing of the reply."""


@dataclass(frozen=True)
class Behaviour:
    """What a request is after, where the prompt holds more: a text that it refers to, or the dress of an attack."""

    text: str
    context: str = ""
    """A text that it refers to; empty for none."""


@dataclass(frozen=True)
class Exchange:
    """A conversation and the reply to it."""

    messages: tuple[Message, ...]
    """Up to and including the last turn of the user."""
    reply: str
    behaviour: Behaviour | None = None
    """For judges that were made to read it in place of the prompt, such as HarmBench's; None: the prompt is it."""


@dataclass(frozen=True)
class Judgement:
    """What one judge says of one reply.

    Raises:
        DataError: the verdict is none of ``VERDICTS``.
    """

    verdict: Verdict
    judge: str
    """Name of the judge."""
    version: str
    """What tells its verdicts from those of another version: of rules, a number; of a model, its revision."""
    score: float | None = None
    """What the judge measured, between 0 and 1, in the direction that its docstring names; None where it gives none."""
    reason: str = ""
    """In words: the phrase that decided, or why there is no verdict."""
    raw: str = ""
    """What the judge wrote; empty for rules."""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise DataError(f"A verdict is one of {', '.join(VERDICTS)}, got {self.verdict!r}.")


@runtime_checkable
class Judge(Protocol):
    """Whatever says what became of a request. It raises for what the user can mend, and never for one reply.

    A judge that fails on a reply (its model writes something else, its endpoint does not answer) gives ``unscored``
    with the reason, and never a verdict by default.
    """

    @property
    def name(self) -> str:
        """For records and tables, such as ``rules``."""
        ...

    @property
    def version(self) -> str:
        """See ``Judgement.version``."""
        ...

    def settings(self) -> dict[str, Any]:
        """Everything that decides its verdicts, as JSON data."""
        ...

    def judge(self, exchanges: Sequence[Exchange]) -> list[Judgement]:
        """A judgement for each exchange, in their order."""
        ...


@runtime_checkable
class Measuring(Protocol):
    """A judge whose scores say how much harm is in a reply, from 0 to 1, so that their mean is a figure."""

    @property
    def measures(self) -> str:
        """In words, such as ``attack success``; empty where scores are something else, or there are none."""
        ...


def measured_by(judge: Judge) -> str:
    """What harm a judge's scores measure, in words; empty for none."""
    return judge.measures if isinstance(judge, Measuring) else ""
