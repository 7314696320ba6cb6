"""Options that several commands share, and how their values are read."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Option(help="`embedded`, a folder in transformers format, or a hub id.")]
Layer = Annotated[int | None, typer.Option(help="Layer whose output is read and edited, from 0.", show_default=False)]
Device = Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda`, `cuda:1`, ...")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0, max=2**62 - 1)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Folder = Annotated[Path, typer.Argument(help="Folder that `steer demo` wrote.")]


def parse_strengths(text: str) -> tuple[float, ...]:
    """``0,2,4`` as numbers.

    Raises:
        typer.BadParameter: something in it is not a finite number, or stands twice.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"expected numbers separated by commas, such as 0,4,8; got {text!r}") from None
    if not all(abs(value) < float("inf") for value in values):  # also refuses NaN
        raise typer.BadParameter(f"strengths must be finite, got {text!r}")
    if len(set(values)) < len(values):
        raise typer.BadParameter(f"a strength stands twice in {text!r}")
    return values


def parse_clamp(text: str) -> tuple[int, float]:
    """``262=10`` as latent and value.

    Raises:
        typer.BadParameter: it has another form.
    """
    latent, separator, value = text.partition("=")
    try:
        if not separator:
            raise ValueError
        return int(latent), float(value)
    except ValueError:
        raise typer.BadParameter(f"expected LATENT=VALUE, such as 262=10; got {text!r}") from None
