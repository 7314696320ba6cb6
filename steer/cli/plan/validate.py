"""``steer plan validate``: whether a plan can be run."""

from typing import Annotated

import typer

from steer.cli.interrupts import importing
from steer.cli.notes import say
from steer.cli.options import Device, Dtype, DtypeName
from steer.cli.plan.options import PlanFile, opened


def validate(
    file: PlanFile,
    model: Annotated[
        str | None,
        typer.Option(help="Check against this model too, and load the SAEs; `embedded`, a folder, or a hub id."),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = DtypeName.auto,
) -> None:
    """Check a plan: by itself and, with --model, whether it fits a model and its SAEs are those it was made with.

    The exit code is 0, or 2 with one message that says what is wrong.
    """
    plan = opened(file)
    if model is not None:
        with importing():
            from steer.cli.console import import_transformers
            from steer.models.load import load_model

            import_transformers()
        plan.bind(load_model(model, device, dtype.value, note=say), say)
    fits = "" if model is None else f", fits {model}"
    typer.echo(f"{file}: {len(plan.edits)} edits, digest {plan.digest[:16]}, valid{fits}")
