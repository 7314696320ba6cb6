"""Arguments and options that the verbs of ``steer plan`` share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli.interrupts import importing
from steer.cli.notes import say
from steer.files import is_there

if TYPE_CHECKING:
    from steer.plans.plan import SteeringPlan

PlanFile = Annotated[
    str, typer.Argument(help="A plan, .json or .toml, or hub:owner/name/plan.toml@revision.", metavar="FILE")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")]


def opened(file: str) -> "SteeringPlan":
    """A plan from a file, or from the hub.

    Raises:
        PlanError: see ``steer.plans.files.read_plan`` and ``steer.plans.hub.pull_plan``.
    """
    with importing():
        from steer.plans.files import read_plan
        from steer.plans.hub import pull_plan
    return pull_plan(file, say) if file.startswith("hub:") else read_plan(file)


def check_free(path: Path, overwrite: bool) -> None:
    """Raise BadParameter if a file is there that is not to be replaced."""
    if is_there(path) and not overwrite:
        raise typer.BadParameter(f"{path} is there already: give another name, or --overwrite")
