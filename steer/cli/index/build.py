"""``steer index build``: one pass over text, and an index of what each latent does there."""

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from steer.cli.index.options import ModelName, SaeSource
from steer.cli.interrupts import importing
from steer.cli.options import Device, Dtype, DtypeName, Json, Seed, Threads, asked_threads


class FormName(StrEnum):
    """How documents become rows."""

    documents = "documents"
    packed = "packed"
    chat = "chat"


def build(
    model: ModelName,
    sae: SaeSource,
    out: Annotated[Path, typer.Option(help="Folder to write to; one that was interrupted is gone on with.")],
    data: Annotated[
        str | None,
        typer.Option(help="Text: .txt, .jsonl, .parquet, a folder, or hub:OWNER/NAME; else the embedded corpus."),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=2, help="Tokens to read; else all of the text.", show_default=False)
    ] = None,
    examples: Annotated[int, typer.Option(min=2, max=1000, help="Examples of a latent.")] = 45,
    window: Annotated[int, typer.Option(min=2, max=255, help="Tokens of an example.")] = 64,
    form: Annotated[
        FormName,
        typer.Option(help="documents: a row each, cut where too long; packed: joined; chat: conversations alone."),
    ] = FormName.documents,
    context: Annotated[
        int | None, typer.Option(min=2, help="Tokens of a row; else the model's, up to 1,024.", show_default=False)
    ] = None,
    roles: Annotated[bool, typer.Option("--roles/--no-roles", help="Tell whose words a conversation's are.")] = True,
    exclude_special: Annotated[
        bool, typer.Option("--exclude-special", help="Leave out the tokenizer's special tokens.")
    ] = False,
    max_norm_ratio: Annotated[
        float, typer.Option(help="Leave out tokens of more than this multiple of the median norm; 0: none.", min=0)
    ] = 10.0,
    text_column: Annotated[str, typer.Option(help="Field that holds a text.")] = "text",
    messages_column: Annotated[str, typer.Option(help="Field that holds a conversation.")] = "messages",
    site: Annotated[
        str | None, typer.Option(help="Where in the model, such as 1.resid_post; else where the SAE was trained.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = DtypeName.auto,
    threads: Threads = None,
    seed: Seed = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an index of something else; notes are kept.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Read text once, and write what each latent of an SAE does on it.

    Examples, densities, histograms, logits and neighbours are kept in memory-mapped files that open at once. A build
    that is killed goes on with the same command.
    """
    with importing():
        from steer.activations.policy import TokenPolicy
        from steer.activations.sources.opened import open_source
        from steer.activations.sources.source import Columns
        from steer.activations.text import embedded_corpus
        from steer.checkpoints.load import load_sae
        from steer.cli.console import Terminal, import_transformers, shown
        from steer.index.build import build_index
        from steer.index.config import IndexConfig
        from steer.models.load import load_model
        from steer.threads import torch_threads

        import_transformers()
    policy = TokenPolicy(
        form=form.value,
        context_size=context,
        exclude_special=exclude_special,
        max_norm_ratio=max_norm_ratio or None,
    )
    config = IndexConfig(
        tokens=tokens,
        examples=examples,
        window=window,
        policy=policy,
        roles=roles,
        seed=seed,
    )
    terminal, started = Terminal(), time.perf_counter()
    source = open_source(data or embedded_corpus(), Columns(text_column, messages_column))
    weights = load_sae(sae, note=terminal.note)
    lm = load_model(model, device, dtype.value, note=terminal.note)
    with torch_threads(lm.model, asked_threads(threads)):
        index = build_index(lm, weights, source, out, config, site, overwrite, terminal)
    found = {
        "index": shown(out),
        "d_sae": index.d_sae,
        "tokens": index.info.tokens,
        "counted": index.info.counted,
        "documents": index.info.documents,
        "alive": int((index.columns["density"] > 0).sum()),
        "bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
        "seconds": round(time.perf_counter() - started, 1),
    }
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(
        "{index}: {alive:,} of {d_sae:,} latents fire on {counted:,} of {tokens:,} tokens in {documents:,} documents; "
        "{bytes:,} bytes, {seconds} s".format(**found)
    )
