"""``steer index info``: what an index was made of."""

import json
from dataclasses import asdict
from typing import Any

import typer

from steer.cli.index.options import Folder
from steer.cli.interrupts import importing
from steer.cli.options import Json


def info(folder: Folder, as_json: Json = False) -> None:
    """Tell what an index was made of, how large it is, and which columns and labels it has."""
    with importing():
        from steer.cli.console import shown
        from steer.files import finite
        from steer.index.read import FeatureIndex
    index = FeatureIndex.open(folder)
    stored = {name: value for name, value in asdict(index.info).items() if name != "files"}
    labels: dict[str, int] = {}
    for label in index.all_labels():
        labels[label.made_by] = labels.get(label.made_by, 0) + 1
    found = {
        "index": shown(folder),
        **stored,
        "columns": {name: index.columns.made_by(name) for name in index.columns},
        "labels": labels,
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }
    if as_json:
        typer.echo(json.dumps(finite(found), ensure_ascii=False, indent=2, allow_nan=False))
        return
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(found["index"]), box=box.SIMPLE_HEAD, show_header=False, title_justify="left")
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    provenance = {name: value for name, value in index.provenance.items() if name != "identity"}
    for name in ("d_sae", "examples", "window", "tokens", "counted", "documents", "bytes"):
        table.add_row(name, f"{found[name]:,}")
    for part in (provenance, {"columns": ", ".join(index.columns), "labels": labels or "none"}):
        table.add_section()
        for name, value in part.items():
            table.add_row(name, escape(_told(value)))
    Console().print(table)


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items() if one is not None)
    return str(value)
