"""What commands show, as data: it is drawn on a terminal, written as plain text, or looked at by tests."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A remark, or what was done."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of cells under the names of their columns. Columns whose cells are all numbers are set to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    marks: Sequence[int | None] = ()
    """The mark of each row, of which the strip above may have the same; (): no row has one."""


@dataclass(frozen=True)
class Strip:
    """Tokens in a row, some of them marked."""

    title: str
    tokens: Sequence[str]
    """Texts of the tokens, which join to the text."""
    marks: Sequence[int | None]
    """A number for each token, by which it is coloured; None: it is not."""
    strengths: Sequence[float]
    """How strongly it is coloured, from 0 to 1."""
    notes: Sequence[str] = ()
    """What the mark of each token means, for where there are no colours; (): they are named elsewhere."""
    spelled: bool = False
    """Whether the notes stand below the tokens also where there are colours."""


@dataclass(frozen=True)
class Said:
    """A text that a model wrote."""

    who: str
    text: str
    note: str = ""
    """How it ended."""


Shown = Line | Table | Strip | Said
