"""A prompt with what is expected of its reply, and the JSON-lines files that hold them."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from steer.checks import require_fields, seen_twice
from steer.digest import of_json
from steer.errors import DataError
from steer.files import is_file, read_lines
from steer.models.chat import Message, as_conversation

Kind = Literal["refusal", "number", "choice", "mentions", "choices", "references", "text"]
CONTENT_TAGS = ("object", "claim", "fact", "concept")
"""Tags that say what a prompt is about: the first of them that it has counts."""


@dataclass(frozen=True)
class Sample:
    """One prompt of an evaluation set.

    Raises:
        DataError: a field is malformed, or ``expect`` lacks what the kind needs.
    """

    id: str
    set: str
    """Name of the set it belongs to."""
    messages: tuple[Message, ...]
    """The conversation up to and including the last user turn."""
    kind: Kind
    """``refusal``: was it refused; ``number``: is the last number right; ``choice``: is the right choice the likeliest;
    ``mentions``: does the reply mention one of the accepted words; ``choices``: how likely are the right ones among
    all; ``references``: is the reply nearer to right answers than to wrong ones; ``text``: how likely is the prompt."""
    expect: dict[str, Any] = field(default_factory=dict)
    """``{"value"}`` of a number, ``{"choices", "answer"}`` of a choice, ``{"any"}`` of a mention,
    ``{"choices", "right"}`` of choices, ``{"correct", "incorrect"}`` of references; more is for the task's scores."""
    tags: dict[str, str] = field(default_factory=dict)
    """What it is about: category, kind of wrapper, ..."""

    def __post_init__(self) -> None:
        for name in ("id", "set"):
            if not isinstance(value := getattr(self, name), str) or not value:
                raise DataError(f"A sample's {name} must be a text, got {value!r}.")
        if isinstance(self.messages, str) or as_conversation(self.messages)[-1]["role"] != "user":
            raise DataError(f"Sample {self.id!r}: the last message must be the user's.")
        if not _is_unicode([self.id, self.set, self.messages, self.expect, self.tags]):
            raise DataError(f"Sample {self.id!r}: half of a surrogate pair is no character. Mend the text.")
        _known(self.kind)
        for name, (is_right, what) in _EXPECTED[self.kind].items():
            if name not in self.expect:
                raise DataError(f"Sample {self.id!r}: a sample of kind {self.kind!r} must expect {name!r}.")
            if not is_right(self.expect):
                raise DataError(f"Sample {self.id!r}: {name!r} must be {what}, got {self.expect[name]!r}.")

    def about(self, tags: Sequence[str] = CONTENT_TAGS) -> str:
        """What the prompt is about: the first of ``tags`` that it has, else its id."""
        return next((self.tags[tag] for tag in tags if tag in self.tags), self.id)


def request(id: str, set: str, text: Any, tags: Mapping[str, str]) -> Sample:
    """A request of one turn, of which it is asked whether it is refused.

    Raises:
        DataError: the text is none.
    """
    if not isinstance(text, str):
        raise DataError(f"{set}, {id}: a prompt is a text, got {type(text).__name__}.")
    return Sample(id, set, (Message(role="user", content=text.strip()),), "refusal", tags=dict(tags))


def _is_unicode(data: Any) -> bool:
    """Whether all texts in JSON data can be written."""
    try:
        json.dumps(data, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True


def _known(kind: Any) -> Kind:
    if not isinstance(kind, str) or kind not in _EXPECTED:
        raise DataError(f"Unknown kind of sample {kind!r}, expected one of {', '.join(_EXPECTED)}.")
    return kind


def _is_number(expect: dict[str, Any]) -> bool:
    try:
        return math.isfinite(float(expect["value"])) and not isinstance(expect["value"], bool)
    except (TypeError, ValueError, OverflowError):
        return False


def _are_texts(texts: object) -> bool:
    return isinstance(texts, list | tuple) and bool(texts) and all(isinstance(one, str) and one for one in texts)


def _is_a_choice(expect: dict[str, Any]) -> bool:
    answer = expect["answer"]
    return isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(expect["choices"])


def _are_places(expect: dict[str, Any]) -> bool:
    right, count = expect["right"], len(expect["choices"])
    each = isinstance(right, list | tuple) and all(type(place) is int and 0 <= place < count for place in right)
    return each and 0 < len(set(right)) == len(right) < count


# what a sample of each kind must expect: the field, whether it is right, and what it must be
_EXPECTED: dict[Kind, dict[str, tuple[Callable[[dict[str, Any]], bool], str]]] = {
    "refusal": {},
    "number": {"value": (_is_number, "a finite number")},
    "choice": {
        "choices": (lambda expect: _are_texts(expect["choices"]), "a list of texts"),
        "answer": (_is_a_choice, "the index of one of the choices, from 0"),
    },
    "mentions": {"any": (lambda expect: _are_texts(expect["any"]), "a list of texts")},
    "choices": {
        "choices": (lambda expect: _are_texts(expect["choices"]), "a list of texts"),
        "right": (_are_places, "indices of some of the choices, from 0, and not of all"),
    },
    "references": {
        "correct": (lambda expect: _are_texts(expect["correct"]), "a list of texts"),
        "incorrect": (lambda expect: _are_texts(expect["incorrect"]), "a list of texts"),
    },
    "text": {},
}


def read_samples(path: str | Path) -> list[Sample]:
    """Samples of a JSON-lines file: ``{"id", "set", "messages", "expect": {"kind", ...}, "tags"}``.

    Raises:
        DataError: the file is missing or empty, a line lacks a field or has a wrong one, or an id stands twice.
    """
    path = Path(path)
    if not is_file(path):
        raise DataError(f"No prompts at {path}: there is no such file.")
    samples = [
        _parse(row, f"{path}, sample {number}") for number, row in enumerate(read_lines(path, whole=True), start=1)
    ]
    if not samples:
        raise DataError(f"{path} holds no prompts.")
    if twice := seen_twice(sample.id for sample in samples):
        raise DataError(f"{path}: the id {twice[0]!r} stands twice; ids must differ.")
    return samples


def _parse(row: dict[str, Any], where: str) -> Sample:
    require_fields(row, ("id", "set", "messages", "expect"), where)
    messages, expect, tags = row["messages"], row["expect"], row.get("tags", {})
    if not isinstance(messages, list) or not isinstance(expect, dict) or not isinstance(tags, dict):
        raise DataError(f"{where}: expected a list of messages and objects as expect and tags.")
    try:
        return Sample(
            id=str(row["id"]),
            set=str(row["set"]),
            messages=tuple(messages),
            kind=_known(expect.get("kind")),
            expect={name: value for name, value in expect.items() if name != "kind"},
            tags={str(name): str(value) for name, value in tags.items()},
        )
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def digest(samples: Iterable[Sample]) -> str:
    """SHA-256 of what is asked and expected: equal for equal samples in equal order, wherever they were read from."""
    rows = [[one.id, list(one.messages), one.kind, one.expect] for one in samples]
    return of_json(rows)


def by_set(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Samples grouped by set, sets in the order of their first sample."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.set, []).append(sample)
    return groups
