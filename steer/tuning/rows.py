"""Reading examples: conversations, or instructions with outputs as in the paper's release, from a file."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from saes.checkpoints import digest_of_file
from steer.activations.sources.raw import opened
from steer.errors import DataError
from steer.files import is_file
from steer.models.chat import Message, as_conversation

Row = TypeVar("Row")


@dataclass(frozen=True)
class Examples:
    """The conversations of a file, and which file it was."""

    conversations: tuple[list[Message], ...]
    path: Path
    sha256: str
    """Of the file's bytes."""


def read_examples(given: str | Path) -> Examples:
    """Read a file: ``.json`` holds a list of rows, any other name a row of JSON a line (``.gz``: packed).

    A row is ``{"messages": [...]}``, or ``{"instruction": ..., "input": ..., "output": ...}``, of which instruction and
    input, a blank line between, become what the user says. A conversation ends with the assistant.

    Raises:
        DataError: the file is missing, empty or damaged, or a row is neither; its place is named.
    """
    path = Path(given)
    found = rows_of(path, _conversation, "example")
    return Examples(tuple(found), path, digest_of_file(path))


def rows_of(path: Path, parse: Callable[[Any], Row], what: str) -> list[Row]:
    """What ``parse`` makes of each row of a file.

    Raises:
        DataError: the file is missing, empty or damaged, or a row is refused; its place is named.
    """
    if not is_file(path):
        raise DataError(f"No {what}s at {path}: there is no such file.")
    found = []
    for place, row in _whole(path) if path.suffix == ".json" else _lines(path):
        try:
            found.append(parse(row))
        except DataError as error:
            raise DataError(f"{path}, {place}: {error}") from error
    if not found:
        raise DataError(f"{path} holds no {what}. Give at least one.")
    return found


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with opened(path, 0) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line.decode("utf-8-sig"))
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{path}, line {number}: cannot be read as JSON lines ({error}).") from error


def _whole(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of rows, got {type(rows).__name__}.")
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", row


def _conversation(row: Any) -> list[Message]:
    if not isinstance(row, Mapping):
        raise DataError(f"expected a JSON object, got {type(row).__name__}.")
    if "messages" in row:
        found = as_conversation(row["messages"] if isinstance(row["messages"], list) else [])
    elif "instruction" in row and "output" in row:
        asked = [row["instruction"], row.get("input") or ""]
        if not all(isinstance(text, str) for text in (*asked, row["output"])):
            raise DataError("instruction, input and output must be texts.")
        user = "\n\n".join(text for text in asked if text.strip())
        found = [Message(role="user", content=user), Message(role="assistant", content=row["output"])]
    else:
        raise DataError(
            f"expected `messages`, or `instruction` and `output`; got {', '.join(map(str, row)) or 'none'}."
        )
    if found[-1]["role"] != "assistant" or not found[-1]["content"].strip():
        raise DataError("a conversation to train on ends with something that the assistant says.")
    return found
