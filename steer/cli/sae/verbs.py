"""The verbs of ``steer sae``."""

import typer

from steer.cli.options import NothingEmpty
from steer.cli.sae.convert import convert
from steer.cli.sae.evaluate import evaluate
from steer.cli.sae.pull import pull
from steer.cli.sae.push import push
from steer.cli.sae.show import show

sae = typer.Typer(
    name="sae",
    help="Look at SAEs, measure them, convert them, and share them. A SOURCE is a path, hub:owner/name/folder, or "
    "saelens:release/id (a name in SAELens' list of pretrained SAEs).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (show, convert, pull, push):
    sae.command(cls=NothingEmpty)(verb)
sae.command("eval", cls=NothingEmpty)(evaluate)
