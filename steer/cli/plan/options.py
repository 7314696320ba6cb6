"""Arguments and options that the verbs of ``steer plan`` share."""

from pathlib import Path
from typing import Annotated

import typer

PlanFile = Annotated[Path, typer.Argument(help="A plan, .json or .toml.", metavar="FILE")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")]


def check_free(path: Path, overwrite: bool) -> None:
    """Raise BadParameter if a file is there that is not to be replaced."""
    if path.exists() and not overwrite:
        raise typer.BadParameter(f"{path} is there already: give another name, or --overwrite")
