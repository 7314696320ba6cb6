"""What the user sees while something runs: progress on stderr, results on stdout."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)  # fmt: skip
from rich.text import Text


class Rate(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        """Nothing until it is known."""
        if not task.speed:
            return Text("")
        return Text(f"{task.speed:,.0f}/s", style="cyan")


class Terminal:
    """Progress bars with rate and time left on a terminal.

    Elsewhere, such as in the log of a batch system: a line when a stage begins and when it is done, and one every
    ``every_seconds`` in which it has moved on.
    """

    def __init__(self, every_seconds: float = 30.0) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._every_seconds = every_seconds
        self._told = 0.0
        """When the last plain line was printed."""
        self._since: tuple[float, float] | None = None
        """When the stage was last told of, or first moved on, and how far it was: what rates are measured from."""

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[None]:
        """Show a stage until the block ends."""
        bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn() if total else TextColumn(""),
            Rate(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        with bars, self.counting(bars, title, total):
            yield

    @contextmanager
    def counting(self, bars: Progress, title: str, total: int | None) -> Iterator[None]:
        """``advance`` moves a bar of these until the block ends, which then is told."""
        started = self._told = time.perf_counter()
        self._since = None
        self._line(f"{title} ...")
        self._bars, self._task = bars, bars.add_task(title, total=total, note="")
        yield
        self.console.print(f"[green]✓[/green] {escape(title)} [dim]{time.perf_counter() - started:.1f} s[/dim]")

    def advance(self, count: int = 1, note: str = "") -> None:
        """Move the current bar on."""
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, advance=count)
            if note:
                self._bars.update(self._task, note=note)
            self._tell(self._bars.tasks[0])

    def note(self, message: str) -> None:
        """Print a remark."""
        self.console.print(f"[yellow]note:[/yellow] {escape(message)}")

    def _tell(self, task: Task) -> None:
        """Tell how far a stage is, if that has not been told for long."""
        now, done = time.perf_counter(), task.completed
        since, before = self._since = self._since or (now, done)
        if now - self._told >= self._every_seconds:
            rate = (done - before) / (now - since) if now > since else 0.0
            self._line(how_far(task.description, done, task.total, rate, task.fields["note"]))
            self._told, self._since = now, (now, done)

    def _line(self, text: str) -> None:
        """One line, however long, where there is no terminal to show bars."""
        if not self.console.is_terminal:
            self.console.print(escape(text), soft_wrap=True)


def how_far(title: str, done: float, total: float | None, rate: float, note: str = "") -> str:
    """How far a stage is as a plain line: ``training: 12,800 of 64,000 (20 %), 1,280/s, 40.0 seconds left  FVU 0.2``.

    ``rate``: units per second; 0: not known.
    """
    share = f" of {total:,.0f} ({100 * done / total:.0f} %)" if total else ""
    left = f", {duration((total - done) / rate)} left" if total and rate else ""
    speed = f", {rate:,.0f}/s" if rate else ""
    return f"{title}: {done:,.0f}{share}{speed}{left}" + (f"  {note}" if note else "")


def duration(seconds: float) -> str:
    """Seconds in a unit that suits."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def shown(path: Path) -> str:
    """A path for the terminal: bytes of a name that are not UTF-8 would not print."""
    return str(path).encode("utf-8", "replace").decode("utf-8")


def import_transformers() -> None:
    """Import transformers, and keep its own progress bars and advice out of the output."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401  # now, not in the midst of the work
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
