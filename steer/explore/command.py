"""A command of the session: a pure function of the state, of what is typed behind it, and of the bench."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from steer.errors import DataError
from steer.explore.bench import Bench
from steer.explore.shown import Shown
from steer.explore.state import State

Completes = Literal["nothing", "latent", "clamped", "file", "setting", "query", "command"]


@dataclass(frozen=True)
class Outcome:
    """What a command makes of the state, and what it shows."""

    state: State
    shown: tuple[Shown, ...]
    replies: tuple[tuple[int, ...], ...] = ()
    """Token ids of what the model said, by which a replay is seen to give the same."""
    undoable: bool = True
    """Whether ``/undo`` goes back to before it; not where it is another reply to the same."""


@dataclass(frozen=True)
class Command:
    """Something that can be typed."""

    name: str
    usage: str
    """What may be typed behind the name."""
    help: str
    run: Callable[[State, str, Bench], Outcome]
    """Raises SteerError where it cannot be done; the state is then what it was."""
    completes: Completes = "nothing"
    """What its arguments are."""


def words_of(arguments: str) -> list[str]:
    """Arguments as a shell splits them: quotes hold a text together.

    Raises:
        DataError: a quote is not closed.
    """
    try:
        return shlex.split(arguments)
    except ValueError as error:
        raise DataError(f"{arguments!r} cannot be read: {str(error).lower()}.") from error
