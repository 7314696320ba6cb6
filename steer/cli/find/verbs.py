"""The verbs of ``steer find``."""

import typer

from steer.cli.find.refusal import refusal
from steer.cli.options import NothingEmpty

find = typer.Typer(
    name="find",
    help="Find the latents that carry a behaviour.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
find.command(cls=NothingEmpty)(refusal)


@find.callback()
def _group() -> None:
    """Find the latents that carry a behaviour."""  # with a callback, a group of one verb stays a group
