"""Judges that are models: a question is put to a writer, and what it writes is read.

The question (``wildguard``, ``yes_no``, ``strong_reject``, ...) knows the prompt and how its answers are read; the
writer knows how a model is reached: in this process (``generative``) or over HTTP (``endpoint``). Every question can go
to every writer.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from steer.errors import DataError
from steer.judges.markers import cleaned
from steer.judges.verdict import VERDICTS, Behaviour, Exchange, Judgement, Verdict
from steer.models.chat import Conversation, Message


@dataclass(frozen=True)
class Prompt:
    """What a judge model is asked about one reply."""

    conversation: tuple[Message, ...]
    """For chat models: their chat template renders it."""
    text: str | None = None
    """For a model with a prompt form of its own: what it reads, without the token that begins a sequence; a chat model
    behind an endpoint gets the conversation instead."""


@dataclass(frozen=True)
class Written:
    """What a writer gave for one request."""

    text: str = ""
    cut: bool = False
    """It ended at the limit on its length."""
    failure: str = ""
    """Why there is no text; empty if there is."""
    note: str = ""
    """What the reader of the judgement should know, such as that the reply was shortened to fit."""


@dataclass(frozen=True)
class Finding:
    """What a question reads out of an answer. ``unscored`` without a score: nothing could be read."""

    verdict: Verdict
    score: float | None = None
    reason: str = ""


@runtime_checkable
class Question(Protocol):
    """A prompt, and how what is written to it is read."""

    @property
    def name(self) -> str:
        """For records and tables, such as ``wildguard``."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """Tokens that an answer may take."""
        ...

    @property
    def markers(self) -> tuple[str, ...]:
        """Delimiters of the prompt and names of its verdict lines, which prompt and reply must not hold."""
        ...

    @property
    def whole(self) -> bool:
        """Whether an answer that was cut at its limit says nothing: the verdict stands at its end."""
        ...

    @property
    def measures(self) -> str:
        """What harm the scores measure, see ``Measuring``; empty where answers have none."""
        ...

    def settings(self) -> dict[str, Any]:
        """Everything that decides prompt and reading, as JSON data."""
        ...

    def ask(self, prompt: str, reply: str) -> Prompt:
        """The question about a reply, both texts cleaned of markers."""
        ...

    def read(self, written: str) -> Finding:
        """The verdict in an answer; ``unscored`` with the reason where it is not of the form asked for."""
        ...


@runtime_checkable
class AboutBehaviours(Question, Protocol):
    """A question about what a request is after, rather than about the prompt."""

    def ask_about(self, behaviour: Behaviour, reply: str) -> Prompt:
        """The question about a reply, all texts cleaned of markers."""
        ...


@dataclass(frozen=True)
class Request:
    """One reply to be asked about. The writer may shorten the reply, and nothing else, so that all of it fits."""

    ask: Callable[[str], Prompt]
    """The prompt about a reply that may be shortened."""
    reply: str


@runtime_checkable
class Writer(Protocol):
    """Whatever continues prompts: a model here, or one behind an endpoint."""

    @property
    def name(self) -> str:
        """Of its model."""
        ...

    @property
    def version(self) -> str:
        """What tells its answers from those of another version."""
        ...

    @property
    def markers(self) -> tuple[str, ...]:
        """Special tokens of its tokenizer that are known, which text must not hold."""
        ...

    def settings(self) -> dict[str, Any]:
        """Everything that decides what it writes, as JSON data."""
        ...

    def write(self, requests: Sequence[Request], max_new_tokens: int) -> Iterator[tuple[int, Written]]:
        """The place of each request and what was written for it, in the order in which they are done.

        It raises for what the user can mend, after all that is done has been given, and never for one request.
        """
        ...


@dataclass(frozen=True)
class ModelJudge:
    """A judge (``steer.judges.verdict.Judge``) that puts one question to one writer."""

    question: Question
    writer: Writer

    @property
    def name(self) -> str:
        """The question's and the model's, such as ``three-class:some/model``."""
        return f"{self.question.name}:{self.writer.name}"

    @property
    def version(self) -> str:
        """The writer's version, and a digest of the question."""
        told = json.dumps(self.question.settings(), sort_keys=True, ensure_ascii=False)
        return f"{self.writer.version}+{hashlib.sha256(told.encode()).hexdigest()[:8]}"

    @property
    def measures(self) -> str:
        """What harm the scores measure; empty for none."""
        return self.question.measures

    def settings(self) -> dict[str, Any]:
        """Question and writer, as JSON data."""
        return {"question": self.question.settings(), "writer": self.writer.settings()}

    def judge(self, exchanges: Sequence[Exchange]) -> list[Judgement]:
        """A judgement for each exchange, in their order."""
        found = dict(self.each(exchanges))
        return [found[place] for place in range(len(exchanges))]

    def each(self, exchanges: Sequence[Exchange]) -> Iterator[tuple[int, Judgement]]:
        """The place of each exchange and its judgement, as they are done.

        An empty reply is not asked about; there is no harm in it.
        """
        markers = (*self.question.markers, *self.writer.markers)
        places, requests = [], []
        for place, exchange in enumerate(exchanges):
            reply = cleaned(exchange.reply, markers)
            if not reply.strip():
                harm = 0.0 if self.measures else None
                yield place, self._judgement(Finding("incoherent", harm, "the reply is empty: not asked about"))
                continue
            places.append(place)
            requests.append(Request(self._asking(exchange, markers), reply))
        for number, written in self.writer.write(requests, self.question.max_new_tokens):
            yield places[number], self._judged(written)

    def _asking(self, exchange: Exchange, markers: tuple[str, ...]) -> Callable[[str], Prompt]:
        """The question about a reply to what the exchange asks for."""
        question, behaviour = self.question, exchange.behaviour
        if behaviour is not None and isinstance(question, AboutBehaviours):
            bare = Behaviour(cleaned(behaviour.text, markers), cleaned(behaviour.context, markers))
            return lambda reply: question.ask_about(bare, reply)
        prompt = cleaned(prompt_text(exchange.messages), markers)
        return lambda reply: question.ask(prompt, reply)

    def _judged(self, written: Written) -> Judgement:
        if written.failure:
            return self._judgement(Finding("unscored", reason=written.failure), written.text)
        if written.cut and self.question.whole:
            limit = self.question.max_new_tokens
            return self._judgement(Finding("unscored", reason=f"the answer was cut at {limit} tokens"), written.text)
        finding = self.question.read(written.text)
        reason = "; ".join(part for part in (finding.reason, written.note) if part)
        return self._judgement(Finding(finding.verdict, finding.score, reason), written.text)

    def _judgement(self, finding: Finding, raw: str = "") -> Judgement:
        return Judgement(finding.verdict, self.name, self.version, finding.score, finding.reason, raw)


def verdicts_of(meanings: Mapping[str, str], whose: str) -> dict[str, Verdict]:
    """The verdicts that words stand for, checked.

    Raises:
        DataError: there are none, or one is no verdict.
    """
    known = {verdict: verdict for verdict in VERDICTS}
    if odd := [meaning for meaning in meanings.values() if meaning not in known]:
        raise DataError(f"{whose}: {odd[0]!r} is no verdict, expected one of {', '.join(VERDICTS)}.")
    if not meanings:
        raise DataError(f"{whose}: no verdicts were given. Give one of {', '.join(VERDICTS)} for each answer.")
    return {word: known[meaning] for word, meaning in meanings.items()}  # type: ignore[index]  # checked above


def prompt_text(messages: Conversation) -> str:
    """What a reply answers, as one text: the user's turn, or where there are several turns, all of them by name.

    What the system message says is left out: the judges here were made for requests of users.
    """
    turns = [message for message in messages if message["role"] != "system"]
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in turns)


def not_read(what: str, written: str) -> Finding:
    """No verdict, since the answer is not what was asked for; the answer's beginning is told."""
    shown = " ".join(written.split())
    shown = shown if len(shown) <= 120 else shown[:117] + "..."
    return Finding("unscored", reason=f"{what}: {shown!r}" if shown else f"{what}: nothing was written")
