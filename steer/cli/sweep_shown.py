"""What the user sees of a sweep: a table that fills while cells are measured, and the one in the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from steer.cli.console import Rate, Terminal

if TYPE_CHECKING:
    from steer.sweeps.bench import Bench
    from steer.sweeps.cells import Cell, Figures
    from steer.sweeps.sweep import Planned

_MARKS = {"refused": "↑ refused", "over_refused": "↓ refused", "correct": "↑ right"}


class LiveTable(Terminal):
    """Progress, and on a terminal above the bar a table of the rates so far."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks: dict[str, str] = {}
        self._rows: dict[tuple[str, float], dict[str, str]] = {}
        self._graded: dict[str, bool] = {}

    def begin(self, bench: "Bench") -> None:
        """The study is known: its rows and columns."""
        self._tasks = {name: task.group for name, task in bench.tasks.items()}
        self._graded = {name: arm.graded for name, arm in bench.arms.items()}
        self._rows = {(name, strength): {} for name, arm in bench.arms.items() for strength in arm.strengths}

    def cell(self, cell: "Cell", figures: "Figures") -> None:
        """A cell is measured, or was found."""
        self._rows[cell.arm, cell.strength][cell.task] = f"{100 * figures.successes / figures.n:.0f}"

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[None]:
        """Show a stage; the table with it once there is one."""
        if not self._rows or not self.console.is_terminal:
            with super().stage(title, total):
                yield
            return
        bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            Rate(),
            TimeRemainingColumn(compact=True),
            console=self.console,
        )
        live = Live(console=self.console, get_renderable=lambda: Group(self._table(), bars), transient=True)
        with live, self.counting(bars, title, total):
            yield

    def _table(self) -> Table:
        """The last rows that fit: those that are filled last."""
        room = max(4, self.console.height - 8)
        filled = [(key, rates) for key, rates in self._rows.items() if rates]
        rows = [
            [name, f"{strength:g}" if self._graded[name] else "", *(rates.get(task, "·") for task in self._tasks)]
            for (name, strength), rates in filled[-room:]
        ]
        return _table("", self._tasks, rows)


def table(found: dict[str, Any]) -> Table:
    """Rates in percent of every point; safety and cost, and a star where no other point is better in both."""
    groups = {name: task["group"] for name, task in found["tasks"].items()}
    graded = set(found["best"])
    rows = []
    for point in found["points"]:
        rates = [f"{100 * point['tasks'][name]['rate']:.0f}" for name in groups]
        places = ["" if point[name] is None else f"{100 * point[name]:.1f}" for name in ("safety", "cost")]
        strength = f"{point['strength']:g}" if point["arm"] in graded else ""
        rows.append([point["arm"], strength, *rates, *places, "★" if point["frontier"] else ""])
    return _table("% of prompts; ★: no other point is as safe and as cheap", groups, rows, ["safety", "cost", "★"])


def _table(title: str, groups: dict[str, str], rows: list[list[str]], more: list[str] | None = None) -> Table:
    made = Table(title=title or None, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    made.add_column("arm")  # names are anybody's, and may hold what looks like markup
    made.add_column("strength", justify="right")
    for name, group in groups.items():
        made.add_column(f"{escape(name)}\n{_MARKS[group]}", justify="right")
    for name in more or ():
        made.add_column(name, justify="right")
    for row in rows:
        made.add_row(*map(escape, row))
    return made


def planned_text(planned: "Planned") -> str:
    """What a sweep would measure, in words."""
    return (
        f"{planned.cells} cells, of which {planned.finished} are finished; {planned.replies:,} replies to make"
        f"{' at most' if planned.halving else ''}"
    )
