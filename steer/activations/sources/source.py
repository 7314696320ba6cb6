"""What a source of text is: documents in order, each with the position from which the next one can be read."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from steer.errors import DataError
from steer.models.chat import Message, as_conversation

Document = str | list[Message]
"""A plain text, or a conversation."""

Position = dict[str, Any]
"""Where to go on: JSON data that only the stage of reading that made it understands."""


@dataclass(frozen=True)
class Columns:
    """Names of the fields, or columns, that hold a document. Where a row has both, its conversation is read."""

    text: str | None = "text"
    """Holds a plain text; None: there is none."""
    messages: str | None = "messages"
    """Holds a list of ``{"role": ..., "content": ...}``; None: there is none."""

    def __post_init__(self) -> None:
        if not self.names or not all(isinstance(name, str) and name for name in self.names):
            raise DataError(
                f"Columns are named by text: got text={self.text!r} and messages={self.messages!r}. Name at least one."
            )

    @property
    def names(self) -> list[str]:
        """Those that there may be."""
        return [name for name in (self.messages, self.text) if name is not None]


COLUMNS = Columns()


@runtime_checkable
class Source(Protocol):
    """Documents that can be read more than once, and from any of the positions that reading gives."""

    @property
    def name(self) -> str:
        """What it was opened from."""
        ...

    def documents(self, start: Position | None = None) -> Iterator[tuple[Document, Position]]:
        """Each document with the position after it, from the beginning or from such a position.

        Raises:
            DataError: the text is missing, damaged or has no usable column.
        """
        ...

    def digest(self) -> str:
        """A short hash: equal for equal documents in equal order, wherever they lie."""
        ...


def columns_of(present: Sequence[str], columns: Columns, where: str) -> list[str]:
    """Those of the wanted columns that are present.

    Raises:
        DataError: none is.
    """
    if found := [name for name in columns.names if name in present]:
        return found
    raise DataError(
        f"{where}: expected a column {' or '.join(map(repr, columns.names))}, got {', '.join(map(repr, present))}. "
        "Name the one that holds texts (`--text-column`; in Python Columns(text=...)), or conversations "
        "(`--messages-column`; Columns(messages=...))."
    )


def as_document(row: Mapping[str, Any], columns: Columns, where: Callable[[], object]) -> Document | None:
    """The document of a row; None where it is empty or null. ``where`` says in an error which row it is.

    Raises:
        DataError: the row lacks the columns, or they hold something else.
    """
    filled = [name for name in _named(row, columns, where) if row[name] is not None]
    if not filled:
        return None
    name, value = filled[0], row[filled[0]]
    if name == columns.messages and isinstance(value, list):
        try:
            return as_conversation(value) if value else None
        except DataError as error:
            raise DataError(f"{where()}: {error}") from error
    if name == columns.text and isinstance(value, str):
        return value or None
    expected = "a list of messages" if name == columns.messages else "a text"
    raise DataError(
        f"{where()}: expected {expected} in column {name!r}, got {type(value).__name__} {repr(value)[:60]}. "
        "Choose another column (`--text-column`, `--messages-column`; in Python Columns(text=..., messages=...))."
    )


def _named(row: Mapping[str, Any], columns: Columns, where: Callable[[], object]) -> list[str]:
    found = [name for name in columns.names if name in row]
    return found or columns_of(list(row), columns, str(where()))


def short_digest(parts: Sequence[object]) -> str:
    """Hash of values, by what they show of themselves: 16 hexadecimal digits."""
    return hashlib.sha256(repr(list(parts)).encode()).hexdigest()[:16]
