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


class _Rate(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        if not task.speed:
            return Text("")
        return Text(f"{task.speed:,.0f}/s", style="cyan")


class Terminal:
    """Progress bars with rate and time left on a terminal; one line per finished stage elsewhere."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._bars: Progress | None = None
        self._task: TaskID | None = None

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[None]:
        """Show a stage until the block ends."""
        started = time.perf_counter()
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn() if total else TextColumn(""),
            _Rate(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        ) as self._bars:
            self._task = self._bars.add_task(title, total=total, note="")
            yield
        self.console.print(f"[green]✓[/green] {title} [dim]{time.perf_counter() - started:.1f} s[/dim]")

    def advance(self, count: int = 1, note: str = "") -> None:
        """Move the current bar on."""
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, advance=count)
            if note:
                self._bars.update(self._task, note=note)

    def note(self, message: str) -> None:
        """Print a remark."""
        self.console.print(f"[yellow]note:[/yellow] {escape(message)}")


def shown(path: Path) -> str:
    """A path for the terminal: bytes of a name that are not UTF-8 would not print."""
    return str(path).encode("utf-8", "replace").decode("utf-8")


def import_transformers() -> None:
    """Import transformers, and keep its own progress bars and advice out of the output."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401  # now, not in the midst of the work
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
