"""The verbs of ``steer index``."""

import typer

from steer.cli.index.build import build
from steer.cli.index.explain import explain
from steer.cli.index.info import info
from steer.cli.index.labels import export_labels, import_labels
from steer.cli.index.verify import verify
from steer.cli.options import NothingEmpty

index = typer.Typer(
    name="index",
    help="Build an index of what an SAE's latents do on a text, check it, and bring labels in and out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (build, verify, info, explain):
    index.command(cls=NothingEmpty)(verb)
index.command("import-labels", cls=NothingEmpty)(import_labels)
index.command("export-labels", cls=NothingEmpty)(export_labels)
