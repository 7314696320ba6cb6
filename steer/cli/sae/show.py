"""``steer sae show``: what an SAE is."""

import json
from typing import TYPE_CHECKING, Any

import typer

from steer.cli.interrupts import importing
from steer.cli.notes import say
from steer.cli.options import Json
from steer.cli.sae.options import FormatName, InputScale, K, ModelName, Revision, SiteName, Source, size

if TYPE_CHECKING:
    from rich.table import Table


def show(
    source: Source,
    format: FormatName = None,
    k: K = None,
    input_scale: InputScale = None,
    model: ModelName = None,
    site: SiteName = None,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Tell what an SAE is: its format, settings, tensors, norms, thresholds, and training.

    Latents that look dead are those whose encoder column or decoder row is all but zero; which ones never fire on a
    text, only activations can tell.
    """
    with importing():
        from steer.checkpoints.describe import describe
        from steer.checkpoints.load import locate
    located = locate(
        source, format=format, revision=revision, note=say, k=k, input_scale=input_scale, model=model, site=site
    )
    described = describe(located)
    if as_json:
        typer.echo(json.dumps({"source": source, **described}, ensure_ascii=False, indent=2))
        return
    from rich.console import Console

    console = Console()
    console.print(_summary(source, described), _stored(described["stored"]))


def _summary(source: str, described: dict[str, Any]) -> "Table":
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from steer.checkpoints.describe import flat

    table = Table(title=escape(source), box=box.SIMPLE_HEAD, show_header=False, title_justify="left")
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    files = ", ".join(f"{one['name']} ({size(one['bytes'])})" for one in described["files"])
    for name, value in {"format": described["format"], "files": files}.items():
        table.add_row(name, escape(value))
    table.add_section()
    config = described["config"] | {"parameters": described["parameters"]}
    for name, value in config.items():
        if value is not None and value != ():
            table.add_row(name, escape(f"{value:,}" if type(value) is int else str(value)))
    table.add_section()
    for name, value in described["weights"].items():
        if name != "shapes":
            table.add_row(name, _value(value))
    table.add_section()
    for name, value in flat(described["training"]).items():
        table.add_row(f"training: {escape(name)}", escape(_value(value)))
    return table


def _value(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"min", "mean", "max"}:
        return "{min:.4g} to {max:.4g}, mean {mean:.4g}".format(**value)
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def _stored(rows: list[dict[str, Any]]) -> "Table":
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("stored tensor", "shape", "dtype", "file"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        shape = " x ".join(f"{side:,}" for side in row["shape"]) or "one number"
        table.add_row(escape(row["name"]), shape, row["dtype"], escape(row["file"]))
    return table
