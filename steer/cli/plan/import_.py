"""``steer plan import``: a plan of plain steering vectors."""

from pathlib import Path
from typing import Annotated

import typer

from steer.cli.interrupts import importing
from steer.cli.notes import say
from steer.cli.plan.options import Overwrite, check_free


def import_(
    file: Annotated[Path, typer.Argument(help="A control vector x.gguf, or vectors in x.safetensors.", metavar="FILE")],
    out: Annotated[
        Path | None, typer.Option(help="Plan to write, .json or .toml; else FILE's name with .json.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model that it is for; the file does not tell.")] = None,
    strength: Annotated[float, typer.Option(help="Factor of all vectors.")] = 1.0,
    label: Annotated[str | None, typer.Option(help="What it is, for people.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make a plan of plain steering vectors: each is added to what leaves its layer, at all tokens."""
    with importing():
        from steer.plans.files import write_plan
        from steer.plans.vectors import import_vectors
    out = file.parent / f"{file.stem}.json" if out is None else out
    check_free(out, overwrite)
    plan = import_vectors(file, say, model, strength, label)
    write_plan(plan, out)
    typer.echo(f"{out}: {len(plan.edits)} edits, digest {plan.digest[:16]}")
