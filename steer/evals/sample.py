"""A prompt with what is expected of its reply, and the JSON-lines files that hold them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from steer.errors import DataError
from steer.files import read_lines
from steer.models.chat import Message

Kind = Literal["refusal", "number", "choice", "mentions"]
_NEEDS: dict[str, tuple[str, ...]] = {
    "refusal": (),
    "number": ("value",),
    "choice": ("choices", "answer"),
    "mentions": ("any",),
}
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Sample:
    """One prompt of an evaluation set."""

    id: str
    set: str
    """Name of the set it belongs to."""
    messages: tuple[Message, ...]
    """The conversation up to and including the last user turn."""
    kind: Kind
    """``refusal``: was it refused; ``number``: is the last number right; ``choice``: is the right choice the likeliest;
    ``mentions``: does the reply mention one of the accepted words."""
    expect: dict[str, Any] = field(default_factory=dict)
    """``{"value"}`` of a number, ``{"choices", "answer"}`` of a choice, ``{"any"}`` of a mention."""
    tags: dict[str, str] = field(default_factory=dict)
    """What it is about: category, kind of wrapper, ..."""


def read_samples(path: Path) -> list[Sample]:
    """Samples of a JSON-lines file: ``{"id", "set", "messages", "expect": {"kind", ...}, "tags"}``.

    Raises:
        DataError: the file is missing or empty, a line lacks a field or has a wrong one, or an id stands twice.
    """
    if not path.is_file():
        raise DataError(f"No prompts at {path}: there is no such file.")
    samples = [_parse(row, f"{path}, sample {number}") for number, row in enumerate(read_lines(path), start=1)]
    if not samples:
        raise DataError(f"{path} holds no prompts.")
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise DataError(f"{path}: the id {sample.id!r} stands twice; ids must differ.")
        seen.add(sample.id)
    return samples


def _parse(row: dict[str, Any], where: str) -> Sample:
    missing = [name for name in ("id", "set", "messages", "expect") if name not in row]
    if missing:
        raise DataError(f"{where}: the field {missing[0]!r} is missing.")
    messages, expect = row["messages"], dict(row["expect"])
    kind = expect.pop("kind", None)
    if kind not in _NEEDS:
        raise DataError(f"{where}: unknown kind {kind!r}, expected one of {', '.join(_NEEDS)}.")
    if lacking := [name for name in _NEEDS[kind] if name not in expect]:
        raise DataError(f"{where}: a sample of kind {kind!r} must expect {lacking[0]!r}.")
    if not messages or messages[-1].get("role") != "user":
        raise DataError(f"{where}: the last message must be the user's.")
    for message in messages:
        if message.get("role") not in _ROLES or not isinstance(message.get("content"), str):
            raise DataError(f"{where}: a message needs a role ({', '.join(_ROLES)}) and a text as content.")
    return Sample(
        id=str(row["id"]),
        set=str(row["set"]),
        messages=tuple(messages),
        kind=kind,
        expect=expect,
        tags={str(name): str(value) for name, value in row.get("tags", {}).items()},
    )


def by_set(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Samples grouped by set, sets in the order of their first sample."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.set, []).append(sample)
    return groups
