"""``steer index import-labels`` and ``export-labels``: labels from and to Neuronpedia's export files."""

import json
from pathlib import Path
from typing import Annotated

import typer

from steer.cli.index.options import Folder
from steer.cli.interrupts import importing
from steer.cli.options import Json


def import_labels(
    folder: Folder,
    files: Annotated[list[Path], typer.Argument(help="Files of explanations: .jsonl.gz or .jsonl.", metavar="FILE...")],
    layer: Annotated[
        str | None,
        typer.Option(help="Take those of this one of Neuronpedia's layers, such as 6-res-jb.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Add labels from files as Neuronpedia exports them. What an explainer said around a label is taken off, and kept.

    All are added or none; those that are there already are not added again.
    """
    with importing():
        from steer.index.neuronpedia import read_labels
        from steer.index.read import FeatureIndex
    index = FeatureIndex.open(folder)
    given = read_labels(files, layer)
    new = index.add_labels(given.labels)
    found = {"labels": len(given.labels), "new": new, "cleaned": given.cleaned, "empty": given.empty}
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(
        "{labels:,} labels, {new:,} of them new; {cleaned:,} cleaned; {empty:,} lines without one".format(**found)
    )


def export_labels(
    folder: Folder,
    out: Annotated[Path, typer.Argument(help="File to write: .jsonl.gz or .jsonl.")],
    model: Annotated[
        str | None,
        typer.Option(help="Neuronpedia's name of the model; else what labels came with.", show_default=False),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(help="Neuronpedia's name of the layer; else what labels came with.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace that file if it is there.")] = False,
) -> None:
    """Write all labels in the form of Neuronpedia's export files."""
    with importing():
        from steer.cli.console import shown
        from steer.files import is_there
        from steer.index.neuronpedia import write_labels
        from steer.index.read import FeatureIndex
    if is_there(out) and not overwrite:
        raise typer.BadParameter(f"it is there already: give another name, or --overwrite ({shown(out)})")
    count = write_labels(FeatureIndex.open(folder), out.resolve(), model, layer)
    typer.echo(f"{shown(out)}: {count:,} labels")
