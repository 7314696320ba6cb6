"""The verbs of ``steer plan``."""

import typer

from steer.cli.plan.export import export
from steer.cli.plan.import_ import import_
from steer.cli.plan.show import show
from steer.cli.plan.validate import validate

plan = typer.Typer(
    name="plan",
    help="Look at steering plans, check them, and turn them into plain steering vectors or make them of such.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (show, validate, export):
    plan.command()(verb)
plan.command("import")(import_)
