"""``steer sae eval``: what an SAE is worth on a model."""

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.interrupts import importing
from steer.cli.options import Device, Dtype, DtypeName, Json, Model, Seed, Threads, asked_threads
from steer.cli.sae.options import FormatName, InputScale, K, Revision, Source
from steer.errors import DataError

if TYPE_CHECKING:
    from rich.table import Table


def evaluate(
    source: Source,
    model: Model = "embedded",
    text: Annotated[
        str | None,
        typer.Option(
            help="Held-out text: .txt, .jsonl, .parquet, a folder, or hub:OWNER/NAME; else the embedded corpus."
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to measure on.")] = 10_000,
    site: Annotated[
        str | None, typer.Option(help="Where in the model, such as 1.resid_post; else where it was trained.")
    ] = None,
    site_out: Annotated[
        str | None, typer.Option(help="Where a transcoder writes, such as 1.mlp_out; else where its files say.")
    ] = None,
    probes: Annotated[bool, typer.Option("--probes/--no-probes", help="Sparse probing and absorption too.")] = True,
    format: FormatName = None,
    k: K = None,
    input_scale: InputScale = None,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = DtypeName.auto,
    threads: Threads = None,
    seed: Seed = 0,
    as_json: Json = False,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to.", show_default=False)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace that file if it is there.")] = False,
) -> None:
    """Measure an SAE: reconstruction, sparsity, the model's loss with it, probes and absorption.

    A transcoder is measured by what it writes: its output stands in place of the activations there.

    The first texts that give the tokens asked for are measured on; of the embedded corpus, these are texts that
    `steer demo` keeps from training.
    """
    with importing():
        from steer.activations.sources.opened import open_source
        from steer.activations.text import embedded_corpus
        from steer.checkpoints.load import load_sae
        from steer.cli.console import Terminal, import_transformers, shown
        from steer.files import write_json
        from steer.models.load import load_model
        from steer.quality.evaluation import check_fits, evaluate_sae
        from steer.quality.texts import first_texts
        from steer.threads import torch_threads

        import_transformers()
    if out is not None:
        check_file(out, overwrite)
    terminal, started = Terminal(), time.perf_counter()
    sae = load_sae(source, format=format, k=k, input_scale=input_scale, revision=revision, note=terminal.note)
    place, trained_out = asked_site(site, sae.config.site), sae.config.site_out
    if site_out is not None:
        if not sae.config.is_transcoder and sae.config.subtract_b_dec:
            raise DataError(f"{source} is an autoencoder, which writes where it reads: leave --site-out out.")
        sae.config = dataclasses.replace(sae.config, site_out=str(asked_site(site_out, None)))
    corpus = open_source(text or embedded_corpus())
    lm = load_model(model, device, dtype.value, note=terminal.note)
    check_fits(lm, sae, place)
    for note in mismatches(lm.name, str(place), sae.config.model, sae.config.site):
        terminal.note(note)
    if trained_out is not None and site_out is not None and _site_or_text(trained_out) != sae.config.site_out:
        terminal.note(f"the SAE was trained to write at {trained_out}, and is measured at {sae.config.site_out}.")
    with torch_threads(lm.model, asked_threads(threads)):
        texts = first_texts(lm, corpus, tokens)
        found = {"source": source, "text": Path(corpus.name).name, "seed": seed}
        found |= evaluate_sae(lm, sae, place, texts, probes, seed, terminal)
    found["seconds"] = round(time.perf_counter() - started, 1)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        from rich.console import Console

        console = Console()
        for table in summary(found):
            console.print(table)
    if out is not None:  # last: if it fails, what was measured has been told
        write_json(out.resolve(), found)
        terminal.note(f"written to {shown(out)}")


def check_file(out: Path, overwrite: bool, option: str = "--out") -> None:
    """See whether a file can be written, before the work is done.

    Raises:
        typer.BadParameter: its folder is not there, or it is no ordinary file, or one that is there already.
    """
    from steer.cli.console import shown

    try:
        folder, there, ordinary = out.parent.is_dir(), out.exists(), out.is_file()
    except OSError as error:  # a name that is too long
        raise typer.BadParameter(f"{option} cannot be written: {error.strerror} ({shown(out)})") from error
    if not folder or (there and not ordinary):
        raise typer.BadParameter(f"{option} names a file in a folder that exists, got {shown(out)}")
    if there and not overwrite:
        raise typer.BadParameter(f"{option} is there already: give another name, or --overwrite ({shown(out)})")


def asked_site(asked: str | None, trained: str | None) -> Any:
    """The site asked for, or that of training.

    Raises:
        SiteError: the name is no site.
        typer.BadParameter: neither is known.
    """
    from steer.models.site import Site

    if (name := asked or trained) is None:
        raise typer.BadParameter("the SAE does not say where it was trained: give --site, such as --site 1.resid_post")
    return Site.parse(name)


def mismatches(model: str, site: str, trained_model: str | None, trained_site: str | None) -> list[str]:
    """What is odd though it may be meant."""
    notes = []
    if trained_model is not None and trained_model != model:
        notes.append(f"the SAE was trained on the model {trained_model!r}, and is measured on {model!r}.")
    if trained_site is not None and _site_or_text(trained_site) != site:
        notes.append(f"the SAE was trained at {trained_site}, and is measured at {site}.")
    return notes


def _site_or_text(name: str) -> str:
    """A site's name as it is written here; one that cannot be read as it stands."""
    from steer.errors import SiteError
    from steer.models.site import Site

    try:
        return str(Site.parse(name))
    except SiteError:
        return name


def summary(found: dict[str, Any]) -> "list[Table]":
    """The figures that matter most, in tables."""
    x, loss, latents = found["activations"], found["loss"], found["latents"]
    between = loss["intervals"]
    sites = " to ".join(one for one in (found["site"], found["site_out"]) if one)
    title = "{source} on {model} at {sites}: {tokens:,} tokens of {texts} texts".format(**found, sites=sites)
    histogram = latents["density"]
    tables = [
        _table(
            title,
            [
                ("fraction of variance unexplained (global)", _figure(x["fvu"], x["fvu_interval"])),
                ("explained variance", _figure(x["explained_variance"])),
                ("  FVU per batch (sparsify)", _figure(x["fvu_per_batch"])),
                ("  FVU per batch, centred (dictionary_learning)", _figure(x["fvu_per_batch_centred"])),
                ("  FVU per token (SAEBench legacy)", _figure(x["fvu_per_token"])),
                ("cosine, mean over tokens", _figure(x["cosine"])),
                ("norm of the reconstruction over the input's", _figure(x["relative_norm"])),
                ("L0, active latents of a token", _figure(x["l0"])),
                (f"dead latents, of {latents['d_sae']:,}", f"{latents['dead']:,} ({x['dead_fraction']:.1%})"),
                ("latents active on > 10 %, > 1 % of tokens", " ".join(map(str, histogram["above"].values()))),
            ],
        ),
        _table(
            "Loss of the model, in nats per token",
            [
                ("as it is", _figure(loss["plain"], between["plain"])),
                ("with the reconstruction", _figure(loss["spliced"], between["spliced"])),
                ("with zeros", _figure(loss["zeroed"], between["zeroed"])),
                ("with the mean activation", _figure(loss["meaned"], between["meaned"])),
                ("recovered, of zero ablation", _figure(loss["recovered"], between["recovered"])),
                ("recovered, of mean ablation", _figure(loss["recovered_from_mean"], between["recovered_from_mean"])),
                ("KL(as it is || reconstruction)", _figure(loss["kl"], between["kl"])),
            ],
        ),
    ]
    if probing := found.get("sparse_probing"):
        rows = [
            (f"{kind}, {k} of them", _figure(probing[f"{name}_{k}"], probing["intervals"][f"{name}_{k}"]))
            for name, kind in (("latents", "latents"), ("channels", "dimensions of the residual stream"))
            for k in (1, 2, 5)
        ]
        rows.append(("the whole residual stream", _figure(probing["dense"], probing["intervals"]["dense"])))
        tables.append(_table(f"Sparse probing: test accuracy over {len(probing['tasks'])} tasks", rows))
    if absorption := found.get("absorption"):
        tables.append(
            _table(
                "Feature absorption",
                [
                    ("of classes of prompts", _absorbed(absorption["prompt_classes"])),
                    ("of first letters", _absorbed(absorption["first_letter"])),
                ],
            )
        )
    return tables


def _table(title: str, rows: list[tuple[str, str]]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    for name, value in rows:
        table.add_row(name, value)
    return table


def _figure(value: float | None, interval: list[float] | None = None) -> str:
    if value is None:
        return "not defined"
    return f"{value:.4f}" + (f"  ({interval[0]:.4f} to {interval[1]:.4f})" if interval else "")


def _absorbed(found: dict[str, Any] | str) -> str:
    """Fraction and share, or why there are none."""
    if isinstance(found, str):
        return found
    if found["fraction"] is None:
        return (
            f"not measurable: the model has {found['concepts_found']} of {found['concepts_tried']}, "
            f"{found['concepts_needed']} needed"
        )
    return "fraction {fraction:.3f}, full {full:.3f}, over {concepts_found} that the model has".format(**found)
