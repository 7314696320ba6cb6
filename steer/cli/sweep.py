"""``steer sweep``: every arm of a study at every strength on every task."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.interrupts import importing
from steer.cli.options import Json, Threads, asked_threads

if TYPE_CHECKING:
    from steer.sweeps.engines import Engine

ENGINES = ("local", "ray")


def sweep(
    study: Annotated[Path, typer.Argument(help="The study, a TOML file.", metavar="STUDY.toml")],
    out: Annotated[Path, typer.Option(help="Folder to write to; finished cells in it are kept.")] = Path("sweep"),
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Processes, or workers of Ray, that share the cells; else one for each CPU for a small model.",
            min=1,
            max=1024,
        ),
    ] = None,
    threads: Threads = None,
    engine: Annotated[str, typer.Option(help="`local`, or `ray` for a cluster.", metavar="NAME")] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="Of the Ray cluster, such as `auto`; else one is started here.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how much there is to measure, and end.")] = False,
    as_json: Json = False,
) -> None:
    """Measure a study: arms, strengths, tasks and controls, cell by cell.

    Finished cells are kept in the output folder, so a sweep that was stopped goes on where it was, and one with another
    strength measures that strength alone. In the end there are a table, summary.json, and frontier.png, safety against
    cost.
    """
    if engine not in ENGINES:
        raise typer.BadParameter(f"--engine is one of {', '.join(ENGINES)}, got {engine!r}")
    if address is not None and engine != "ray":
        raise typer.BadParameter("--address is that of a Ray cluster: give it with --engine ray")
    with importing():
        from steer.cli.console import import_transformers, shown
        from steer.cli.memory import keep_freed_memory
        from steer.cli.sweep_shown import LiveTable, planned_text, table
        from steer.sweeps.read import read_study
        from steer.sweeps.sweep import plan_sweep, run_sweep

        import_transformers()
    keep_freed_memory()
    asked = read_study(study)
    live = LiveTable()
    if dry_run:
        planned = plan_sweep(asked, out, live)
        typer.echo(json.dumps(vars(planned)) if as_json else planned_text(planned))
        return
    try:
        found = run_sweep(
            asked, out, _engine(engine, jobs, address), live, asked_threads(threads), live.begin, live.cell
        )
    except KeyboardInterrupt:
        live.note(f"interrupted. Finished cells stay in {shown(out)}; the same command goes on from there")
        raise
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    _print(table(found), found, out)


def _engine(name: str, jobs: int | None, address: str | None) -> "Engine":
    if name == "ray":
        from steer.sweeps.ray_engine import Ray

        return Ray(address, jobs)
    from steer.sweeps.engines import Local

    return Local(jobs)


def _print(table: Any, found: dict[str, Any], out: Path) -> None:
    from rich.console import Console

    from steer.cli.console import shown

    Console().print(table)
    for name, best in found["best"].items():
        typer.echo(f"{name}: best at {best['strength']:g}, balance {100 * best['balance']:+.1f} points")
    cells = found["cells"]
    typer.echo(f"Cells: {cells['computed']} measured, {cells['found']} were there. Results: {shown(out)}")
