"""A session as data: where it is, where it was, what was run. Each line that is typed makes the next one."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from steer.checks import hint
from steer.errors import DataError
from steer.explore.bench import Bench
from steer.explore.commands import COMMANDS
from steer.explore.recipe import Recipe, Step
from steer.explore.shown import Shown
from steer.explore.state import State
from steer.plans.plan import SteeringPlan
from steer.plans.sources import ModelSpec

_COMMAND = re.compile(r"/(\S*)\s*(.*)", re.DOTALL)
UNKEPT = ("state", "help", "save", "quit")
"""Commands that change nothing that a replay would have to do again."""


@dataclass(frozen=True)
class Change:
    """A line that changed the state, and the state on its other side: before it in the past, after it in the future."""

    line: str
    state: State


@dataclass(frozen=True)
class Session:
    """States, for ``/undo`` and ``/redo``, and the commands that were run, for the recipe."""

    state: State = field(default_factory=State)
    past: tuple[Change, ...] = ()
    """States before this one, the latest last."""
    future: tuple[Change, ...] = ()
    """States that were undone, the one to come back to first."""
    steps: tuple[Step, ...] = ()
    ended: bool = False
    """Whether ``/quit`` was typed."""

    def at(self, state: State, line: str, undoable: bool = True) -> "Session":
        """The session at the state that a line makes; where it is the same, there is nothing to undo."""
        if state == self.state:
            return self
        if not undoable:
            return replace(self, state=state)
        return replace(self, state=state, past=(*self.past, Change(line, self.state)), future=())

    def recipe(self, bench: Bench) -> Recipe:
        """What was done so far."""
        return Recipe(bench.identity, self.steps, self.state)


Done = tuple[Session, tuple[Shown, ...]]


@dataclass(frozen=True)
class SessionCommand:
    """A command about the session itself, such as ``/undo``."""

    name: str
    usage: str
    help: str
    run: Callable[[Session, str, Bench], Done]
    completes: str = "nothing"


def begun(bench: Bench) -> Session:
    """A session in which nothing is done to the model yet."""
    return Session(State(SteeringPlan(model=ModelSpec.of(bench.lm))))


def run(
    session: Session,
    line: str,
    bench: Bench,
    about_session: Mapping[str, SessionCommand],
    files: Mapping[str, bytes] | None = None,
) -> Done:
    """Run a line as it is typed: a command after ``/``, else a prompt (one that begins with ``/`` is typed ``//``).

    ``about_session`` are the commands besides ``COMMANDS``. With ``files``, as in a recipe, these are read instead of
    those on the disk.

    Raises:
        SteerError, SaesError: the command cannot be done; the session is what it was.
    """
    line = line.strip()
    if not line:
        return session, ()
    try:
        line.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"The line is not valid Unicode ({error.reason}). Type it again.") from error
    name, arguments = parsed(line, (*COMMANDS, *about_session))
    usage = COMMANDS[name].usage if name in COMMANDS else about_session[name].usage
    if arguments and not usage:
        raise DataError(f"/{name} takes nothing behind it, got {arguments!r}.")
    with bench.files.noting(files) as read:
        if name in COMMANDS:
            outcome = COMMANDS[name].run(session.state, arguments, bench)
            done, shown, replies = session.at(outcome.state, line, outcome.undoable), outcome.shown, outcome.replies
        else:
            done, shown = about_session[name].run(session, arguments, bench)
            replies = ()
    if name in UNKEPT:
        return done, shown
    return replace(done, steps=(*session.steps, Step(line, dict(read), replies))), shown


def parsed(line: str, names: tuple[str, ...]) -> tuple[str, str]:
    """Name and arguments of the command that a line is.

    Raises:
        DataError: there is no such command.
    """
    if not line.startswith("/") or line.startswith("//"):
        return "prompt", line.removeprefix("/") if line.startswith("//") else line
    match = _COMMAND.fullmatch(line)
    assert match is not None, "it begins with /"
    if match[1] not in names:
        raise DataError(f"No command is called /{match[1]}. {hint(match[1], names, 'There are')}")
    return match[1], match[2].strip()
