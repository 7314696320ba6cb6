"""Lines in, drawings out: the session as it is typed or piped, kept after each command, and a recipe run again."""

import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.live import Live
from rich.text import Text

from saes.errors import SaesError
from steer.errors import DataError, OutputError, SteerError
from steer.explore.about_session import ABOUT_SESSION
from steer.explore.bench import Bench, check_identity
from steer.explore.commands import COMMANDS
from steer.explore.draw import draw
from steer.explore.recipe import Recipe, read_recipe, same_replies, write_recipe
from steer.explore.session import UNKEPT, Session, begun, parsed, run
from steer.explore.shown import Line, Said, Shown, Table
from steer.explore.text import visible
from steer.files import is_there, remove, writing

MARK = "> "
"""Before what is typed."""


@dataclass
class Loop:
    """A session under way."""

    bench: Bench
    session: Session
    console: Console
    errors: Console
    """Where messages of what went wrong are printed."""
    kept: Path | None = None
    """Where the recipe is written after each command; None: nowhere."""
    interactive: bool = True
    """Whether Ctrl-C stops the command alone, and lines need not be shown again."""
    latents: list[int] = field(default_factory=list)
    """Those that were shown last."""
    failed: int = 0
    """Commands that could not be done."""

    def converse(self, read: Callable[[], str], ending: Callable[[], bool] = lambda: False) -> None:
        """Run what ``read`` gives until it raises EOFError, or until ``/quit``.

        ``read`` raises KeyboardInterrupt where a line is given up. ``ending`` tells, after one, that the process is to
        end, as after SIGTERM.

        Raises:
            KeyboardInterrupt: it is to end, or nobody is there to go on.
        """
        while not self.session.ended:
            try:
                line = read()
            except EOFError:
                return
            except KeyboardInterrupt:
                if ending() or not self.interactive:
                    raise
                continue
            if not self.interactive and line.strip():
                self.console.print(Text(MARK + visible(line.strip())), soft_wrap=True)
            try:
                self.do(line)
            except KeyboardInterrupt:
                if ending() or not self.interactive:
                    raise

    def do(self, line: str) -> None:
        """Run a line, draw what it shows, keep the session. An error is one message, and nothing has changed.

        Raises:
            KeyboardInterrupt: it was stopped; what the model had said so far is shown.
        """
        grown = [""]
        try:
            with _growing(self.console, self.bench, grown):
                session, shown = run(self.session, line, self.bench, ABOUT_SESSION)
        except KeyboardInterrupt:
            draw(self.console, [Said("stopped", grown[0], "not part of the recipe")])
            raise
        except (SteerError, SaesError) as error:
            self._tell(str(error))
            return
        except Exception:  # a defect, or a lack of memory: the session is what it was, and is worth more than an exit
            self._tell(f"This should not have happened:\n{traceback.format_exc()}")
            return
        draw(self.console, shown)
        self.latents = _latents_in(shown) or self.latents
        keeps = session.steps != self.session.steps
        self.session = session
        if keeps and self.kept is not None:
            try:
                write_recipe(session.recipe(self.bench), self.kept)
            except OutputError as error:
                self._tell(f"The session is not kept: {error}")

    def _tell(self, message: str) -> None:
        self.failed += 1
        self.console.file.flush()  # so that messages stand where they belong
        self.errors.print(Text(visible(message, breaks=True), "red"), soft_wrap=True)


@contextmanager
def _growing(console: Console, bench: Bench, grown: list[str]) -> Iterator[None]:
    """A reply is shown as it grows, and wiped where it is then shown as a whole."""
    live = Live(console=console, transient=True, refresh_per_second=10)

    def watch(text: str) -> None:
        grown[0] = text
        if console.is_terminal:
            live.start()  # does nothing the second time
            seen = visible(text, breaks=True)[-console.width * max(1, console.height - 3) :]
            live.update(Text("\n".join(seen.split("\n")[-max(1, console.height - 3) :]), "dim"))

    bench.watch = watch
    try:
        yield
    finally:
        bench.watch = None
        live.stop()


def _latents_in(shown: Iterable[Shown]) -> list[int]:
    """The latents that tables show."""
    tables = [one for one in shown if isinstance(one, Table) and one.columns and one.columns[0] == "latent"]
    return list(dict.fromkeys(int(row[0]) for table in tables for row in table.rows))


def replay(recipe: Recipe, bench: Bench, console: Console, where: str) -> list[str]:
    """Run a recipe again, each command with the files that it read then; returns what came out otherwise.

    Raises:
        DataError: it was made with another model, SAE or index, or a command can no longer be done.
    """
    check_identity(recipe.identity, bench, where)
    session, found = begun(bench), []
    for number, step in enumerate(recipe.steps, start=1):
        console.print(Text(MARK + visible(step.line)), soft_wrap=True)
        try:
            _check_kept(step.line)
            session, shown = run(session, step.line, bench, ABOUT_SESSION, step.files)
        except (SteerError, SaesError) as error:
            raise DataError(f"{where}, command {number} ({step.line}): {error}") from error
        draw(console, shown)
        if not session.steps or not same_replies(session.steps[-1].replies, step.replies):
            found.append(f"command {number} ({step.line}) gives another reply than it did")
    if session.state != recipe.state:
        found.append("the session ends in another state than it did")
    return found


def _check_kept(line: str) -> None:
    """Raise DataError for a command that no session keeps, such as /save: whose recipe it is may not write here."""
    name, _ = parsed(line.strip(), (*COMMANDS, *ABOUT_SESSION))
    if name in UNKEPT:
        raise DataError(f"/{name} is no command of a recipe. Take it out.")


def opened(path: Path | None, bench: Bench) -> Session:
    """The session that a file keeps; a new one where there is no such file.

    Raises:
        DataError: the file is no recipe, or of another model, SAE or index.
    """
    if path is None or not is_there(path):
        return begun(bench)
    recipe = read_recipe(path)
    check_identity(recipe.identity, bench, str(path))
    return Session(recipe.state, steps=recipe.steps)


@contextmanager
def claimed_file(path: Path) -> Iterator[None]:
    """Keep other sessions from the file while the block runs; the system takes the claim back after a kill.

    Raises:
        OutputError: another session has it, or its folder cannot be written to.
    """
    lock_file = path.with_name(f".{path.name}.lock")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_file, blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise OutputError(f"Another session is kept in {path}. End it, or choose another file.") from None
    try:
        yield
    finally:
        remove(lock_file)
        lock.release()


def told_of(bench: Bench, session: Session) -> list[Shown]:
    """What a session begins with."""
    index = "" if bench.index is None else f", index {bench.index.folder}"
    sae = f"{bench.sae.config.d_sae:,} latents at {bench.site}"
    lines = [f"{bench.lm.name} with {bench.source} ({sae}){index}. /help tells what can be typed."]
    if session.steps:
        lines.append(f"{len(session.steps)} commands were run before; this goes on from there.")
    return [Line(line) for line in lines]
