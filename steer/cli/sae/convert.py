"""``steer sae convert``: an SAE in another format."""

import dataclasses
import json
from enum import StrEnum
from typing import Annotated

import typer

from steer.cli.interrupts import importing
from steer.cli.notes import say
from steer.cli.options import Json
from steer.cli.sae.options import (
    FormatName,
    InputScale,
    K,
    ModelName,
    Out,
    Overwrite,
    Revision,
    SiteName,
    Source,
    size,
)


class Stored(StrEnum):
    """Number formats of weights in a file."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def convert(
    source: Source,
    out: Out,
    to: Annotated[str, typer.Option(help="Format to write: saes, saelens, sparsify, dictionary_learning, ...")],
    format: FormatName = None,
    k: K = None,
    input_scale: InputScale = None,
    model: ModelName = None,
    site: SiteName = None,
    revision: Revision = None,
    dtype: Annotated[Stored, typer.Option(help="How weights are stored; thresholds stay float32.")] = Stored.float32,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write an SAE in another format, and check it: the files are read again and must compute the same.

    The formats are listed in docs/formats.md. What the format has no form for is refused; what it has no place for,
    such as the model's revision, is named.
    """
    with importing():
        from steer.checkpoints.convert import check_target
        from steer.checkpoints.convert import convert as converted
        from steer.checkpoints.load import locate
        from steer.cli.console import shown
    check_target(out, to, dtype.value, overwrite)
    located = locate(
        source, format=format, revision=revision, note=say, k=k, input_scale=input_scale, model=model, site=site
    )
    done = converted(located, out, to, dtype.value, overwrite)
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(done), "path": str(done.path)}, ensure_ascii=False))
        return
    found = done.difference
    typer.echo(f"{shown(done.path)}: {done.format}, {dtype.value}, {size(done.bytes)}")
    typer.echo(
        f"read again, largest difference: {found.latents:.1e} of the largest latent, {found.output:.1e} of the largest "
        f"output; {found.changed} of {found.active:,} active latents are others"
    )
    if done.not_kept:
        typer.echo(f"not kept by the format: {', '.join(done.not_kept)}")
