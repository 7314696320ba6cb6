"""Commands about the session itself: undo, redo, save, load, help, quit."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from steer.checks import hint
from steer.errors import DataError, OutputError, PlanError
from steer.explore.bench import Bench, check_identity
from steer.explore.command import Command, words_of
from steer.explore.commands import COMMANDS
from steer.explore.commands.settings import show_state
from steer.explore.kept_files import expanded
from steer.explore.recipe import parse_recipe, read_recipe, write_recipe
from steer.explore.session import Change, Done, Session, SessionCommand
from steer.explore.shown import Line, Table
from steer.files import is_there
from steer.plans.files import read_plan, write_plan
from steer.plans.plan import SamplingSpec


def undo(session: Session, arguments: str, bench: Bench) -> Done:
    """Go back to the state before the last command that changed it.

    Raises:
        DataError: there is none.
    """
    if not session.past:
        raise DataError("There is nothing to undo.")
    *past, change = session.past
    undone = Change(change.line, session.state)
    there = replace(session, state=change.state, past=tuple(past), future=(undone, *session.future))
    return there, (Line(f"Undone: {change.line}"), *show_state(change.state, "", bench).shown)


def redo(session: Session, arguments: str, bench: Bench) -> Done:
    """Go to the state that was undone last.

    Raises:
        DataError: there is none.
    """
    if not session.future:
        raise DataError("There is nothing to do again.")
    change, *future = session.future
    done = Change(change.line, session.state)
    there = replace(session, state=change.state, past=(*session.past, done), future=tuple(future))
    return there, (Line(f"Done again: {change.line}"), *show_state(change.state, "", bench).shown)


def save(session: Session, arguments: str, bench: Bench) -> Done:
    """Write the session as a recipe (.json), or what is done to the model as a plan (.toml).

    Raises:
        DataError: no file is given, or its name ends otherwise.
        OutputError: it cannot be written, or something else stands there.
    """
    path = _path("save", arguments)
    if path.suffix == ".toml":
        _check_replaced(path, lambda: read_plan(path))
        state = session.state
        write_plan(state.plan.model_copy(update={"sampling": SamplingSpec(**vars(state.sampling))}), path)
        steers = f"steer generate --plan {shlex.quote(str(path))}"
        return session, (Line(f"Saved the plan to {path}. `{steers}` steers by it."),)
    if path.suffix != ".json":
        raise DataError(f"A recipe ends in .json, a plan in .toml; got {path}.")
    _check_replaced(path, lambda: read_recipe(path))
    write_recipe(session.recipe(bench), path)
    run_again = f"steer explore --replay {shlex.quote(str(path))}"
    told = f"Saved {len(session.steps)} commands to {path}. `{run_again}` runs them again."
    return session, (Line(told),)


def load(session: Session, arguments: str, bench: Bench) -> Done:
    """Go to where a recipe got to: its plan, system prompt, settings and prompt.

    Raises:
        DataError: it is no recipe, or was made with another model, SAE or index.
        PlanError: its plan does not fit the model.
    """
    words = words_of(arguments)
    if len(words) != 1:
        raise DataError(f"/load needs one file, got {len(words)}.")
    recipe = parse_recipe(bench.files.read(words[0]), words[0])
    check_identity(recipe.identity, bench, words[0])
    bench.bind(recipe.state.plan)
    return session.at(recipe.state, f"/load {arguments}"), show_state(recipe.state, "", bench).shown


def help_(session: Session, arguments: str, bench: Bench) -> Done:
    """What can be typed, or how one command is.

    Raises:
        DataError: there is no such command.
    """
    every: dict[str, Command | SessionCommand] = {**COMMANDS, **ABOUT_SESSION}
    if name := arguments.removeprefix("/"):
        if name not in every:
            raise DataError(f"No command is called /{name}. {hint(name, list(every), 'There are')}")
        return session, (Line(f"/{name} {every[name].usage}".rstrip()), Line(every[name].help))
    rows = [[f"/{one.name}", one.help] for one in every.values()]
    return session, (Line("Type a prompt to see what fires on it, or a command."), Table("", ["", ""], rows))


def quit_(session: Session, arguments: str, bench: Bench) -> Done:
    """End the session."""
    return replace(session, ended=True), ()


def _path(command: str, arguments: str) -> Path:
    words = words_of(arguments)
    if len(words) != 1:
        raise DataError(f"/{command} needs one file, got {len(words)}.")
    return expanded(words[0])


def _check_replaced(path: Path, read: Callable[[], object]) -> None:
    """Raise OutputError if something stands there that was not written here."""
    if not is_there(path):
        return
    try:
        read()
    except (DataError, PlanError, OSError) as error:
        raise OutputError(f"{path} is there and is something else. Choose another name.") from error


ABOUT_SESSION: dict[str, SessionCommand] = {
    one.name: one
    for one in (
        SessionCommand("undo", "", "back to the state before the last change", undo),
        SessionCommand("redo", "", "again what was undone", redo),
        SessionCommand(
            "save", "FILE", "the session as a recipe (.json), or the steering as a plan (.toml)", save, "file"
        ),
        SessionCommand("load", "FILE", "to where a recipe got to", load, "file"),
        SessionCommand("help", "[COMMAND]", "this, or how a command is typed", help_, "command"),
        SessionCommand("quit", "", "end the session, as Ctrl-D does", quit_),
    )
}
