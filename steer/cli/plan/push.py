"""``steer plan push``: a plan to the hub."""

from pathlib import Path
from typing import Annotated

import typer

from steer.cli.interrupts import importing
from steer.cli.notes import say


def push(
    file: Annotated[Path, typer.Argument(help="A plan, .json or .toml.", metavar="FILE")],
    target: Annotated[str, typer.Argument(help="Where to: owner/name, or owner/name/folder.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private, if it is new.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch on the hub.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent; send nothing.")] = False,
) -> None:
    """Send a plan and its vectors to the Hugging Face hub, in one commit; beside a model, for example.

    A card that is there already is left as it is. The token of `hf auth login` or HF_TOKEN is used.
    """
    with importing():
        from steer.checkpoints.share import push as pushed
        from steer.plans.hub import plan_upload
    upload = plan_upload(file, target, revision)
    if dry_run:
        typer.echo(f"would be sent to {upload.place}: {', '.join([*upload.files, upload.card_path])}\n\n{upload.card}")
        return
    typer.echo(pushed(upload, private, say))
