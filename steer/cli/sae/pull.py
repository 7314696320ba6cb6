"""``steer sae pull``: an SAE from the hub to a folder."""

import dataclasses
import json

import typer

from steer.cli.interrupts import importing
from steer.cli.notes import say
from steer.cli.options import Json
from steer.cli.sae.options import FormatName, K, Out, Overwrite, Revision, Source, size


def pull(
    source: Source,
    out: Out,
    format: FormatName = None,
    k: K = None,
    revision: Revision = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Copy an SAE's files from the hub to a folder, as they are, once they are seen to load.

    No other files of the repository are downloaded. What only the place on the hub tells, such as the k of Qwen-Scope,
    is named: the copy has to be loaded with it.
    """
    with importing():
        from steer.checkpoints.load import locate
        from steer.checkpoints.share import pull as pulled
        from steer.checkpoints.staging import check_out
        from steer.cli.console import shown
    check_out(out, overwrite)
    done = pulled(locate(source, format=format, revision=revision, note=say, k=k), out, overwrite)
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(done), "path": str(done.path)}, ensure_ascii=False))
        return
    typer.echo(f"{shown(done.path)}: {', '.join(done.files)} ({size(done.bytes)})")
    if done.not_kept:
        typer.echo(f"to load it, also give: {', '.join(f'{name}={value!r}' for name, value in done.not_kept.items())}")
