"""``steer index verify``: whether an index still says what the model and the SAE do."""

import json
from typing import Annotated

import typer

from steer.cli.index.options import Folder, ModelName, SaeSource
from steer.cli.interrupts import importing
from steer.cli.options import Device, Dtype, DtypeName, Json, Seed, Threads, asked_threads


def verify(
    folder: Folder,
    model: ModelName,
    sae: SaeSource,
    cards: Annotated[int, typer.Option(min=1, help="Random latents whose cards are computed again.")] = 8,
    whole: Annotated[
        bool, typer.Option("--whole", help="Also count all latents over the whole text again: one pass of the model.")
    ] = False,
    device: Device = "auto",
    dtype: Dtype = DtypeName.auto,
    threads: Threads = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Compare all files with their hashes, and compute random cards again; with --whole the counts of all, too.

    Ends with 1 where a card differs, and says what does; with 2 where the index was built with another SAE, model or
    tokenizer, or a file was altered.
    """
    with importing():
        from steer.checkpoints.load import load_sae
        from steer.cli.console import Terminal, import_transformers
        from steer.index.verify import verify as verified
        from steer.models.load import load_model
        from steer.threads import torch_threads

        import_transformers()
    terminal = Terminal()
    weights = load_sae(sae, note=terminal.note)
    lm = load_model(model, device, dtype.value, note=terminal.note)
    with torch_threads(lm.model, asked_threads(threads)):
        found = verified(folder, lm, weights, cards, seed, terminal, whole)
    if as_json:
        told = {
            "latents": found.latents,
            "windows": found.windows,
            "active_tokens": found.tokens,
            "counted": found.counted,
        }
        typer.echo(json.dumps({**told, "differences": found.differences}, indent=2))
    else:
        for difference in found.differences:
            typer.echo(difference)
        verdict = f"{len(found.differences)} differences" if found.differences else "the index holds"
        counts = f"; the counts of {found.counted:,} latents" if whole else ""
        seen = f"{found.windows} windows of {len(found.latents)} latents, {found.tokens} active tokens"
        typer.echo(f"{verdict}: {seen}{counts}")
    if found.differences:
        raise typer.Exit(1)
