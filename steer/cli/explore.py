"""``steer explore``: what fires on a prompt, and what steering does, one line after another."""

import os
import sys
import time
from contextlib import ExitStack
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.interrupts import importing, terminated
from steer.cli.options import Device, Dtype, DtypeName, Layer, Threads, asked_threads

if TYPE_CHECKING:
    from rich.console import Console

    from steer.explore.bench import Bench
    from steer.explore.recipe import Recipe

WIDTH = 120
"""Columns of what is printed where there is no terminal."""


def explore(
    model: Annotated[
        str | None,
        typer.Argument(help="`embedded`, a folder in transformers format, or a hub id.", show_default=False),
    ] = None,
    sae: Annotated[
        str | None,
        typer.Argument(
            help="The SAE: a folder such as demo/sae, hub:owner/name/folder, or saelens:release/id.", show_default=False
        ),
    ] = None,
    index: Annotated[
        Path | None, typer.Option(help="An index of the SAE's latents (`steer index build`).", show_default=False)
    ] = None,
    session: Annotated[
        Path | None,
        typer.Option(
            help="File that the session is kept in as it goes, a recipe; one that is there is gone on with.",
            show_default=False,
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(help="Run a recipe again, which names model, SAE and index, and end.", show_default=False),
    ] = None,
    embedder: Annotated[
        Path | None,
        typer.Option(help="Folder of a local model of embeddings, for /search meaning=TEXT.", show_default=False),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = DtypeName.auto,
    threads: Threads = None,
    layer: Layer = None,
) -> None:
    """Type a prompt to see which latents fire on it, and commands to steer, ask, compare, search, save and undo.

    Lines that are piped in are run one after another. Exit code 2 if one could not be done; 1 if a recipe gives other
    replies than it did.
    """
    if replay is None and (model is None or sae is None):
        raise typer.BadParameter("give a model and an SAE: steer explore MODEL SAE, or a recipe: --replay FILE")
    if replay is not None and session is not None:
        raise typer.BadParameter("--replay runs a recipe and ends: leave --session out")
    interactive = replay is None and _is_terminal(sys.stdin) and _is_terminal(sys.stdout)
    if interactive:
        from steer.explore.extra import check_installed

        check_installed()
    with importing():
        from steer.cli.console import import_transformers
        from steer.explore.loop import replay as replayed
        from steer.explore.recipe import read_recipe
        from steer.threads import torch_threads

        import_transformers()
    recipe = None if replay is None else read_recipe(replay)
    bench = _bench(model, sae, index, embedder, recipe, device, dtype.value, layer)
    out, err = _consoles(interactive)
    with torch_threads(bench.lm.model, asked_threads(threads)):
        if recipe is None:
            raise typer.Exit(_converse(bench, out, err, session, interactive))
        if differs := replayed(recipe, bench, out, str(replay)):
            typer.echo(f"steer: {replay}: {'; '.join(differs)}.", err=True)
            raise typer.Exit(1)


def _bench(
    model: str | None,
    sae: str | None,
    index: Path | None,
    embedder: Path | None,
    recipe: "Recipe | None",
    device: str,
    dtype: Any,
    layer: int | None,
) -> "Bench":
    """Model, SAE and index, as they are asked for or else as the recipe names them."""
    from steer.checkpoints.load import load_sae
    from steer.explore.bench import Bench, absolute
    from steer.index.read import FeatureIndex
    from steer.models.load import load_model
    from steer.models.site import Site
    from steer.search.meaning import load_embedder

    site = None if layer is None else Site(layer)
    if recipe is not None:
        named = recipe.named
        model, sae = model or named.model, sae or named.sae
        index = Path(named.index) if index is None and named.index is not None else index
        embedder = Path(named.embedder) if embedder is None and named.embedder is not None else embedder
        dtype = named.dtype if dtype == "auto" else dtype
        site = site or Site.parse(named.site)
    assert model is not None
    assert sae is not None
    lm = load_model(model, device, dtype, note=_say)
    if not lm.has_chat_template:
        from steer.models.chat import NO_TEMPLATE_NOTE

        _say(NO_TEMPLATE_NOTE)
    read = load_sae(sae, note=_say)
    opened = None if index is None else FeatureIndex.open(index, read, lm, note=_say)
    if embedder is None:
        return Bench(lm, read, absolute(sae), site, opened)
    return Bench(lm, read, absolute(sae), site, opened, load_embedder(embedder), absolute(str(embedder)))


def _converse(bench: "Bench", out: "Console", err: "Console", kept: Path | None, interactive: bool) -> int:
    """The session; returns the exit code."""
    from steer.explore.draw import draw
    from steer.explore.loop import Loop, claimed_file, opened, told_of
    from steer.explore.terminal import reader

    with ExitStack() as claimed:
        if kept is not None:
            claimed.enter_context(claimed_file(kept))
        elif interactive:
            kept = _claimed_by_default(claimed)
        loop = Loop(bench, opened(kept, bench), out, err, kept, interactive)
        draw(out, told_of(bench, loop.session))
        if not interactive:
            if isinstance(sys.stdin, TextIOWrapper):
                sys.stdin.reconfigure(errors="surrogateescape")  # what is no text is refused line by line
            loop.converse(_piped, terminated)
            return 2 if loop.failed else 0
        loop.converse(reader(loop, _history()), terminated)
        if loop.session.steps and kept is not None:
            _say(f"the session is kept in {kept}: --session goes on with it, --replay runs it again.")
    return 0


def _claimed_by_default(claimed: ExitStack) -> Path | None:
    """The file that a session is kept in where none is named; None where it cannot be written."""
    from steer.errors import OutputError
    from steer.explore.loop import claimed_file

    path = _folder() / "sessions" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.json"
    try:
        claimed.enter_context(claimed_file(path))
    except OutputError as error:
        _say(f"the session is not kept: {error} Or name a file: --session.")
        return None
    return path


def _consoles(interactive: bool) -> "tuple[Console, Console]":
    """For results and for messages: on a terminal both are it, else stdout and stderr without colours."""
    from rich.console import Console

    if interactive:
        console = Console(highlight=False, emoji=False, markup=False)
        return console, console
    width = None if _is_terminal(sys.stdout) else WIDTH
    plain: dict[str, Any] = {"highlight": False, "emoji": False, "markup": False, "width": width}
    return Console(**plain), Console(stderr=True, **plain)


def _piped() -> str:
    """The next line of stdin.

    Raises:
        EOFError: there is none.
    """
    line = sys.stdin.readline() if sys.stdin is not None else ""
    if not line:
        raise EOFError
    return line


def _is_terminal(stream: Any) -> bool:
    """Whether somebody types or reads there; of a stream that was closed before we began, nobody does."""
    return stream is not None and bool(stream.isatty())


def _history() -> Path | None:
    """The file of lines typed before, which nobody else can read; None where it cannot be written."""
    path = _folder() / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.open("r+b").close()
    except OSError as error:
        _say(f"lines are not remembered: {path} cannot be written ({error.strerror or error}).")
        return None
    return path


def _folder() -> Path:
    return Path(typer.get_app_dir("steer")) / "explore"


def _say(note: str) -> None:
    typer.echo(f"note: {note}", err=True)
