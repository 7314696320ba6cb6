"""Concepts in a tree, how each stands to those that are abstained from, and the questions a technique learns from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from saes.seeds import derived
from steer.checks import seen_twice
from steer.errors import DataError
from steer.methods.fitted import about
from steer.models.decode import Sampling
from steer.models.model import LanguageModel
from steer.responders.responder import Responder

Relation = Literal["target", "descendant", "near", "other"]
"""How a concept stands to the targets: one of them, below one, a sibling or an ancestor of one, or none of these."""


@dataclass(frozen=True)
class Concept:
    """Something that questions are about.

    Raises:
        DataError: it has no name or no question.
    """

    name: str
    questions: tuple[str, ...]
    ancestors: tuple[str, ...] = ()
    """Names of the concepts above it, the nearest first; (): it stands in no tree."""

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.questions or not all(one.strip() for one in self.questions):
            raise DataError(f"A concept has a name, and questions with a word in them: got {self.name!r}.")

    @property
    def in_context(self) -> str:
        """Its name with what is above it, as the release writes it: ``robin in the context of bird, animal``."""
        return f"{self.name} in the context of {', '.join(self.ancestors)}" if self.ancestors else self.name


def relation(concept: Concept, targets: Sequence[Concept]) -> Relation:
    """How a concept stands to the targets; of several relations the first in the order of ``Relation``."""
    names = {target.name for target in targets}
    if concept.name in names:
        return "target"
    if names.intersection(concept.ancestors):
        return "descendant"
    parents = {target.ancestors[0] for target in targets if target.ancestors}
    above = {name for target in targets for name in target.ancestors}
    sibling = bool(concept.ancestors) and concept.ancestors[0] in parents
    return "near" if sibling or concept.name in above else "other"


def by_relation(targets: Sequence[Concept], others: Iterable[Concept]) -> dict[Relation, list[Concept]]:
    """The concepts of each relation, the targets first.

    Raises:
        DataError: there is no target, or two concepts have the same name.
    """
    others = list(others)
    if not targets:
        raise DataError("Abstaining needs a concept to abstain from.")
    if twice := seen_twice(one.name for one in (*targets, *others)):
        raise DataError(f"Two concepts have the name {twice[0]!r}. Names tell concepts apart, so they must differ.")
    found: dict[Relation, list[Concept]] = {"target": list(targets), "descendant": [], "near": [], "other": []}
    for concept in others:
        found[relation(concept, targets)].append(concept)
    return found


@dataclass(frozen=True)
class Questions:
    """What a technique learns from: questions to abstain from, and questions to answer."""

    abstain: tuple[str, ...]
    answer: tuple[str, ...]
    record: dict[str, Any] = field(default_factory=dict)
    """How many of each, with a digest of what they say, as JSON data."""


def drawn(
    targets: Sequence[Concept], others: Sequence[Concept], answered: float, below: float = 1.0, seed: int = 0
) -> Questions:
    """The questions of the targets, some about their descendants, and others that are answered.

    Args:
        targets: what is abstained from.
        others: all other concepts; how they stand to the targets follows from their ancestors.
        answered: questions to answer for each question to abstain from. Those about siblings and ancestors come first,
            as in the release.
        below: questions about descendants for each question about a target, at most. Where not all are taken, each
            descendant has one before any has two.
        seed: of what is drawn.

    Raises:
        DataError: there are no targets, or no concept whose questions are answered.
    """
    kinds = by_relation(targets, others)
    rng = Random(derived(seed, "questions"))
    own = [question for target in targets for question in target.questions]
    under = _in_turn(kinds["descendant"], rng)[: round(below * len(own))]
    rest = [*_in_turn(kinds["near"], rng), *_in_turn(kinds["other"], rng)]
    if not rest:
        raise DataError("Abstaining needs concepts to answer about too: all that are given are abstained from.")
    abstain, answer = tuple(own + under), tuple(rest[: max(1, round(answered * len(own + under)))])
    record = {
        "targets": [target.in_context for target in targets],
        "abstain": about(abstain),
        "answer": about(answer),
        "seed": seed,
    }
    return Questions(abstain, answer, record)


def _in_turn(concepts: Sequence[Concept], rng: Random) -> list[str]:
    """A question of each concept, then another of each, until none is left; both in a random order."""
    rows = [rng.sample(one.questions, len(one.questions)) for one in rng.sample(list(concepts), len(concepts))]
    longest = max(map(len, rows), default=0)
    return [row[place] for place in range(longest) for row in rows if place < len(row)]


def own_answers(lm: LanguageModel, questions: Sequence[str], max_new_tokens: int = 64) -> dict[str, str]:
    """What the model says to each question by itself, greedily; questions that it says nothing to are left out."""
    replies = lm.generate(list(questions), Sampling(max_new_tokens=max_new_tokens))
    return {question: reply for question, reply in zip(questions, replies, strict=True) if reply.strip()}


@dataclass(frozen=True)
class Abstaining:
    """What abstains from the targets, and how it came about."""

    responder: Responder
    record: dict[str, Any] = field(default_factory=dict)
    """What was used, as JSON data."""
