"""``steer demo``: the main job in one command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.interrupts import importing
from steer.cli.options import (
    Device,
    Dtype,
    DtypeName,
    Json,
    Layer,
    Model,
    Processes,
    Seed,
    Threads,
    asked_threads,
    parse_strengths,
)

if TYPE_CHECKING:
    from rich.table import Table

    from steer.studies.config import DemoConfig


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("demo"),
    model: Model = "embedded",
    device: Device = "auto",
    dtype: Dtype = DtypeName.auto,
    threads: Threads = None,
    processes: Processes = None,
    layer: Layer = None,
    d_sae: Annotated[
        int | None, typer.Option(min=1, help="Latents of the SAE; 1024 by default.", show_default=False)
    ] = None,
    k: Annotated[
        int | None, typer.Option(min=1, help="Latents active on a token; 16 by default.", show_default=False)
    ] = None,
    archetype: Annotated[
        str | None,
        typer.Option(help="Unsafe prompt whose refusal names the candidates.", show_default=False),
    ] = None,
    finder_strength: Annotated[
        float | None,
        typer.Option(help="Clamp value at which candidates are first compared; 5 by default.", show_default=False),
    ] = None,
    strengths: Annotated[
        str | None,
        typer.Option(help="Strengths to try, such as 4,8,12; 2,4,6 by default.", show_default=False, metavar="NUMBERS"),
    ] = None,
    seed: Seed = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer tokens, strengths and prompts.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results of an earlier run.")] = False,
    as_json: Json = False,
) -> None:
    """From a chat model to its refusal trade-off curve.

    Trains a sparse autoencoder, finds the latent that carries refusal, clamps it at several strengths (with an
    unrelated latent and the dense refusal direction beside it), measures refusal, over-refusal and capability on test
    prompts, and writes results.json, report.html, completions.jsonl, figures/ and sae/ to the output folder.
    """
    chosen: dict[str, Any] = {"model": model, "device": device, "dtype": dtype.value, "layer": layer, "seed": seed}
    chosen["processes"] = processes
    optional = {"d_sae": d_sae, "k": k, "archetype": archetype, "finder_strength": finder_strength}
    chosen |= {name: value for name, value in optional.items() if value is not None}
    if strengths is not None:
        chosen["strengths"] = parse_strengths(strengths)

    with importing():
        from steer.cli.console import Terminal, import_transformers, shown
        from steer.cli.memory import keep_freed_memory
        from steer.studies.config import DemoConfig, quick_config
        from steer.studies.demo import run_demo

        import_transformers()
    keep_freed_memory()
    config = checked(quick_config if quick else DemoConfig, {**chosen, "threads": asked_threads(threads)})
    terminal, before = Terminal(), _version(out / "results.json")
    try:
        report = run_demo(config, out, overwrite, terminal)
    except KeyboardInterrupt:
        terminal.note(_interrupted(out, before))
        raise
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps(results, ensure_ascii=False))
        return
    from rich.console import Console

    Console().print(summary(results))
    typer.echo(f"Report: {shown(report)}")


def checked(make: "Callable[..., DemoConfig]", settings: dict[str, Any]) -> "DemoConfig":
    """Settings as a config.

    Raises:
        typer.BadParameter: a setting cannot work.
    """
    from steer.errors import DataError
    from steer.settings import checked_error

    try:
        return make(**settings)
    except DataError as error:
        first = checked_error(error).errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise typer.BadParameter(f"{option}: {first['msg'].removeprefix('Value error, ')}") from None


def _version(path: Path) -> tuple[int, int] | None:
    """What differs after a file was written anew; None if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _interrupted(out: Path, before: tuple[int, int] | None) -> str:
    """What an interrupted run has left in ``out``, whose results.json was ``before`` when it began."""
    now = _version(out / "results.json")
    if now == before:
        return f"interrupted before anything was finished; {out} is as it was"
    if now is None:
        return f"interrupted when the earlier results in {out} were removed and no new ones were written yet"
    return f"interrupted. What is finished stays in {out}; `steer report {out}` draws the report from it"


def summary(results: dict[str, Any]) -> "Table":
    """Rates in percent: the chosen latent at all strengths, the other arms at the one settled on and the greatest."""
    from rich import box
    from rich.table import Table

    compared = {results["candidates"][0]["strength"], max(point["strength"] for point in results["points"])}
    shown = [point for point in results["points"] if point["arm"] in ("none", "sae") or point["strength"] in compared]
    table = Table(
        title="Latent {chosen} clamped (sae), latent {control} clamped (ctl), direction added (dir)".format(**results),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("% of test prompts", no_wrap=True)
    for point in shown:
        name, strength = _SHORT[point["arm"]], point["strength"]
        table.add_column(name if point["arm"] == "none" else f"{name}\n{strength:g}", justify="right", no_wrap=True)
    for metric in ("refused", "correct"):
        table.add_section()
        table.add_row(f"[dim]{metric}[/dim]")
        for name, info in results["sets"].items():
            if info["metric"] == metric:
                table.add_row(info["title"], *(f"{100 * point['sets'][name]['rate']:.0f}" for point in shown))
    return table


_SHORT = {"none": "plain", "sae": "sae", "control": "ctl", "direction": "dir"}
