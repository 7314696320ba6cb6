"""``steer sae push``: an SAE to the hub."""

from pathlib import Path
from typing import Annotated

import typer

from steer.cli.interrupts import importing
from steer.cli.notes import say
from steer.cli.sae.options import Revision, size


def push(
    folder: Annotated[Path, typer.Argument(help="Folder of an SAE, in any format that is read.")],
    target: Annotated[str, typer.Argument(help="Where to: owner/name, or owner/name/folder.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private, if it is new.")] = False,
    revision: Revision = None,
    license: Annotated[str | None, typer.Option(help="License for the card, such as mit or cc-by-4.0.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent; send nothing.")] = False,
) -> None:
    """Send an SAE to the Hugging Face hub with a model card, in one commit.

    A README.md in the folder is used as the card. Else one is written: what the SAE is, its settings, its figures where
    the files have them, and how to load it. The token of `hf auth login` or HF_TOKEN is used.
    """
    with importing():
        from steer.checkpoints.share import plan_push
        from steer.checkpoints.share import push as pushed
    upload = plan_push(folder, target, revision, license)
    if dry_run:
        typer.echo(f"would be sent to {upload.place}:")
        for name, path in upload.files.items():
            typer.echo(f"  {name} ({size(path.stat().st_size)})")
        typer.echo(f"  {upload.card_path} ({'of the folder' if upload.own_card else 'written now'}):\n\n{upload.card}")
        return
    typer.echo(f"{pushed(upload, private, say)}\nload it with steer.load_sae({str(upload.place)!r})")
