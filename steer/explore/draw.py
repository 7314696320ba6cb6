"""What commands show, drawn with rich: coloured on a terminal, plain elsewhere. No text steers the terminal."""

import re
from collections.abc import Iterable

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from steer.explore.shown import Line, Said, Shown, Strip, Table
from steer.explore.text import visible

_COLOURS = ((255, 135, 95), (95, 175, 255), (135, 215, 95), (215, 135, 255), (255, 215, 95), (95, 215, 215))
"""Red, green and blue of marks, in turn."""
_FAINTEST = 0.25
_TOKEN = 20
"""Columns of a token in a list."""
_NUMBER = re.compile(r"[+-]?[\d.,]+(e[+-]?\d+)?%?|nan|", re.ASCII)


def draw(console: Console, shown: Iterable[Shown]) -> None:
    """Print what a command shows."""
    coloured = console.color_system is not None and not console.no_color
    for one in shown:
        for part in drawn(one, coloured, console.width):
            # what a model said is copied from a terminal as it is; remarks are wrapped between words
            whole = not isinstance(one, Table) and (not console.is_terminal or not isinstance(one, Line))
            console.print(part, soft_wrap=whole)


def drawn(one: Shown, coloured: bool, width: int) -> list[RenderableType]:
    """One thing as rich draws it, part by part, for so many columns."""
    if isinstance(one, Line):
        return [Text(visible(one.text, breaks=True))]
    if isinstance(one, Said):
        told = Text.assemble((f"{visible(one.who)}: ", "bold"), visible(one.text, breaks=True))
        return [told.append(f"  [{visible(one.note)}]", "dim") if one.note else told]
    if isinstance(one, Table):
        return [_table(one, coloured, width)]
    words = [_in_words(one, coloured)] if one.notes and (one.spelled or not coloured) else []
    return [Text(visible(one.title), "bold"), *([_strip(one)] if coloured or not words else []), *words]


def _table(table: Table, coloured: bool, width: int) -> RenderableType:
    head = any(table.columns)
    found = RichTable(
        box=box.SIMPLE_HEAD if head else None,
        show_header=head,
        pad_edge=False,
        padding=(0, 1, 0, 0) if head else (0, 1),
    )
    columns = [[row[place] for row in table.rows] for place in range(len(table.columns))]
    numbers = [head and all(_NUMBER.fullmatch(cell) for cell in cells) for cells in columns]
    # in a narrow terminal texts are folded, but numbers and the words above them only where there is no other way
    widest = [
        max(map(len, [*name.split(), *(cells if is_number else [])]), default=0)
        for name, cells, is_number in zip(table.columns, columns, numbers, strict=True)
    ]
    fits = sum(widest) + 2 * len(widest) <= width
    for name, least, is_number in zip(table.columns, widest, numbers, strict=True):
        found.add_column(
            Text(visible(name)),
            justify="right" if is_number else "left",
            overflow="fold",
            min_width=least if is_number and fits else None,
        )
    for place, row in enumerate(table.rows):
        mark = table.marks[place] if table.marks else None
        cells_ = [Text(visible(cell)) for cell in row]
        if mark is not None and coloured:
            cells_[0].stylize(f"bold {_colour(mark, 1.0)}")
        found.add_row(*cells_)
    return Group(Text(visible(table.title), "bold"), found) if table.title else found


def _strip(strip: Strip) -> Text:
    """The tokens one after another, each on the colour of its mark."""
    text = Text()
    for token, mark, strength in zip(strip.tokens, strip.marks, strip.strengths, strict=True):
        style = "" if mark is None else f"black on {_colour(mark, strength)}"
        for part in re.split(r"(\n)", token):  # a line break as a sign, and as a break
            text.append("\\n\n" if part == "\n" else visible(part), style)
    return text


def _in_words(strip: Strip, coloured: bool) -> Text:
    """The marked tokens with what their marks mean, a line each."""
    lines = []
    rows = zip(strip.tokens, strip.marks, strip.strengths, strip.notes, strict=True)
    for place, (token, mark, strength, note) in enumerate(rows):
        if mark is not None or note:
            quoted = f"'{visible(token)}'"
            style = f"black on {_colour(mark, strength)}" if coloured and mark is not None else ""
            padding = " " * (_TOKEN - cell_len(quoted))
            lines.append(Text.assemble(f"  {place:>4}  ", (quoted, style), f"{padding} {visible(note)}"))
    return Text("\n").join(lines)


def _colour(mark: int, strength: float) -> str:
    """The colour of a mark, nearer to white the weaker it is."""
    share = _FAINTEST + (1 - _FAINTEST) * min(max(strength, 0.0), 1.0)
    parts = [round(255 - share * (255 - part)) for part in _COLOURS[mark % len(_COLOURS)]]
    return f"rgb({parts[0]},{parts[1]},{parts[2]})"
