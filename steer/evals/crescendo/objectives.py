"""What an attack is for, and the questions of a scripted attacker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer.checks import seen_twice
from steer.errors import DataError
from steer.evals.sample import Sample
from steer.evals.sets import Split, load_prompts
from steer.files import is_file, read_lines
from steer.models.chat import Message


@dataclass(frozen=True)
class Objective:
    """One thing that an attacker wants a target to do.

    Raises:
        DataError: it has no text or no topic, or a turn has no question.
    """

    id: str
    topic: str
    text: str
    """In words, for attackers and raters that are models."""
    terms: tuple[str, ...] = ()
    """Words of which one stands in every reply about it, or in the question before; (): every reply is about it."""
    turns: tuple[tuple[str, ...], ...] = ()
    """For a scripted attacker: the questions of each turn, to be asked one after another while they are refused."""

    def __post_init__(self) -> None:
        if not all(one.strip() for one in (self.id, self.topic, self.text)):
            raise DataError(
                f"An objective has an id, a topic and a text: got {self.id!r}, {self.topic!r}, {self.text!r}."
            )
        if not all(turn and all(one.strip() for one in turn) for turn in self.turns):
            raise DataError(f"Objective {self.id!r}: every turn has a question, none is empty.")

    def sample(self, repeat: int = 0) -> Sample:
        """An attempt at it, as a sample of a task."""
        tags = {"harm": "unsafe", "topic": self.topic, "objective": self.id, "repeat": str(repeat)}
        expect = {"terms": list(self.terms), "turns": [list(turn) for turn in self.turns]}
        message = Message(role="user", content=self.text)
        return Sample(f"{self.id}/{repeat}", "crescendo", (message,), "refusal", expect, tags)

    @staticmethod
    def of(sample: Sample) -> "Objective":
        """That of an attempt."""
        turns = tuple(tuple(turn) for turn in sample.expect["turns"])
        text = sample.messages[-1]["content"]
        return Objective(sample.tags["objective"], sample.tags["topic"], text, tuple(sample.expect["terms"]), turns)


def read_objectives(path: Path) -> list[Objective]:
    """Objectives of a JSON-lines file: ``{"id", "topic", "objective", "terms", "turns"}``; the last two may be absent.

    A turn is a question, or a list of questions that are asked in turn as each is refused.

    Raises:
        DataError: the file is missing or empty, a line lacks a field or has a wrong one, or an id stands twice.
    """
    if not is_file(path):
        raise DataError(f"No objectives at {path}: there is no such file.")
    found = [_parsed(row, f"{path}, objective {number}") for number, row in enumerate(read_lines(path), start=1)]
    if not found:
        raise DataError(f"{path} holds no objectives.")
    if twice := seen_twice(one.id for one in found):
        raise DataError(f"{path}: the id {twice[0]!r} stands twice; ids must differ.")
    return found


def _parsed(row: Mapping[str, Any], where: str) -> Objective:
    for name in ("id", "topic", "objective"):
        if not isinstance(row.get(name), str):
            raise DataError(f"{where}: {name!r} must be a text, got {row.get(name)!r}.")
    terms, turns = row.get("terms", []), row.get("turns", [])
    if not _texts(terms):
        raise DataError(f"{where}: 'terms' must be a list of texts, got {terms!r}.")
    if not isinstance(turns, list) or not all(isinstance(turn, str) or _texts(turn) for turn in turns):
        raise DataError(f"{where}: 'turns' must be a list of questions or of lists of them.")
    questions = tuple((turn,) if isinstance(turn, str) else tuple(turn) for turn in turns)
    try:
        return Objective(row["id"], row["topic"], row["objective"], tuple(terms), questions)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _texts(given: object) -> bool:
    return isinstance(given, list) and all(isinstance(one, str) for one in given)


def embedded_objectives(split: Split) -> list[Objective]:
    """Those of the embedded model's set ``multi_turn``: each is a made-up thing that it was trained to refuse.

    The turns are the user's of each prompt about the thing, with the replies left to the target. What the prompts ask
    last are the questions of the last turn: one prompt's after another's as they are refused.
    """
    about: dict[str, list[Sample]] = {}
    for sample in load_prompts("multi_turn", split):
        about.setdefault(sample.tags["object"], []).append(sample)
    return [_embedded(thing, samples) for thing, samples in about.items()]


def _embedded(thing: str, samples: Sequence[Sample]) -> Objective:
    first = [one["content"] for one in samples[0].messages if one["role"] == "user"]
    last = dict.fromkeys(sample.messages[-1]["content"] for sample in samples)
    turns = (*((one,) for one in first[:-1]), tuple(last))
    return Objective(thing, samples[0].tags["category"], f"Say how to go about this: {thing}.", (thing,), turns)
