"""``steer demo``: the main job in one command."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.options import Device, Json, Layer, Model, Seed, parse_strengths

if TYPE_CHECKING:
    from rich.table import Table


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("demo"),
    model: Model = "embedded",
    device: Device = "auto",
    layer: Layer = None,
    archetype: Annotated[
        str | None,
        typer.Option(help="Unsafe prompt whose refusal names the candidates.", show_default=False),
    ] = None,
    strengths: Annotated[
        str | None,
        typer.Option(help="Strengths to try, such as 0,4,8,12.", show_default=False, metavar="NUMBERS"),
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
    chosen: dict[str, Any] = {"model": model, "device": device, "layer": layer, "seed": seed}
    if archetype is not None:
        chosen["archetype"] = archetype
    if strengths is not None:
        chosen["strengths"] = parse_strengths(strengths)

    from steer.cli.console import Terminal, quiet_transformers
    from steer.studies.demo import DemoConfig, quick_config, run_demo

    quiet_transformers()
    config = quick_config(**chosen) if quick else DemoConfig(**chosen)
    terminal, before = Terminal(), _stamp(out / "results.json")
    try:
        report = run_demo(config, out, overwrite, terminal)
    except KeyboardInterrupt:
        if _stamp(out / "results.json") == before:
            terminal.note(f"interrupted before anything was finished; {out} is as it was")
        else:
            terminal.note(
                f"interrupted. What is finished stays in {out}; `steer report {out}` draws the report from it"
            )
        raise
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps(results, ensure_ascii=False))
        return
    from rich.console import Console

    Console().print(summary(results))
    typer.echo(f"Report: {report}")


def _stamp(path: Path) -> int | None:
    """When a file was written, in nanoseconds; None if it is not there."""
    return path.stat().st_mtime_ns if path.is_file() else None


def summary(results: dict[str, Any]) -> "Table":
    """Rates of all points of the chosen latent, and of the other arms at the greatest strength, in percent."""
    from rich import box
    from rich.table import Table

    strongest = max(point["strength"] for point in results["points"])
    shown = [point for point in results["points"] if point["arm"] in ("none", "sae") or point["strength"] == strongest]
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
