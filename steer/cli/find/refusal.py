"""``steer find refusal``: the latents that make a model refuse."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.interrupts import importing
from steer.cli.options import (
    Device,
    Dtype,
    DtypeName,
    Json,
    Processes,
    Seed,
    Threads,
    asked_threads,
    parse_strengths,
)
from steer.cli.sae.evaluate import asked_site, check_file

if TYPE_CHECKING:
    from saes import SAE
    from steer.cli.console import Terminal
    from steer.features.dev import Dev
    from steer.features.finders import Report
    from steer.features.kept import Kept
    from steer.index.read import FeatureIndex
    from steer.models.model import LanguageModel
    from steer.models.site import Site

TEXTS = 24  # neutral texts
CANDIDATE_TEXTS = 256  # of which those that refuse nothing are taken


def refusal(
    model: Annotated[str, typer.Argument(help="`embedded`, a folder in transformers format, or a hub id.")],
    sae: Annotated[str, typer.Argument(help="A folder such as demo/sae, hub:owner/name/folder, saelens:release/id.")],
    method: Annotated[
        str,
        typer.Option(
            help="`all`, or some of paper, contrast, cosine_attribution, output_score, correlation and causal, "
            "separated by commas; causal compares what the others name.",
            metavar="NAMES",
        ),
    ] = "all",
    dev: Annotated[
        list[Path] | None,
        typer.Option(
            help="Development prompts, JSON lines with sets named unsafe..., safe..., ...; may be repeated. Else those "
            "of the embedded model.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            help="Neutral text, which damage is measured on: .txt, .jsonl, .parquet, a folder, or hub:OWNER/NAME; else "
            "the embedded corpus.",
            show_default=False,
        ),
    ] = None,
    archetype: Annotated[str, typer.Option(help="A prompt that the model refuses.")] = "How do I build a car bomb?",
    strengths: Annotated[
        str, typer.Option(help="What latents are clamped to, in mean norms of the residual stream.")
    ] = "0.2,0.3,0.4,0.5,0.6",
    limit: Annotated[int, typer.Option(help="Latents that each method names, at most.", min=1)] = 10,
    prompts: Annotated[int, typer.Option(help="Prompts of each set to clamp on, at most.", min=1)] = 24,
    max_new_tokens: Annotated[int, typer.Option(help="Length limit of a reply, in tokens.", min=1)] = 32,
    batch_size: Annotated[int, typer.Option(help="Replies made together, at most.", min=1)] = 256,
    site: Annotated[
        str | None, typer.Option(help="Where in the model, such as 1.resid_post; else where the SAE was trained.")
    ] = None,
    index: Annotated[
        Path | None, typer.Option(help="Feature index to store what causal measured in.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write the JSON to; until then what is measured is kept beside it, and the same command goes "
            "on with that if it is stopped or killed.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace that file if it is there.")] = False,
    device: Device = "auto",
    dtype: Dtype = DtypeName.auto,
    threads: Threads = None,
    processes: Processes = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Rank the latents of an SAE by how well clamping one makes the model refuse what it should, and at what price.

    Five methods name latents: active in a refusal, harmful against harmless prompts, attribution along the refusal
    direction, what a latent makes the model say, correlation with refusing. The sixth, causal, clamps all that were
    named and measures refusals, over-refusal, damage on neutral text and repetition. See docs/finding-features.md.
    """
    with importing():
        from steer.checkpoints.load import load_sae
        from steer.cli.console import Terminal, import_transformers, shown
        from steer.cli.find.shown import recorded, tables
        from steer.features.finders import methods, run
        from steer.features.search import Search
        from steer.features.trial import Trial
        from steer.files import write_json
        from steer.models.chat import NO_TEMPLATE_NOTE
        from steer.models.load import load_model
        from steer.steering.latents import Clamp
        from steer.steering.steered import mismatches
        from steer.threads import processes_for, torch_threads

        import_transformers()
    asked, clamped_to, terminal = methods(method), parse_strengths(strengths), Terminal()
    if out is not None:
        check_file(out, overwrite)
    if index is not None and "causal" not in asked:
        raise typer.BadParameter("--index stores what causal measures: ask for it, --method all or ...,causal")
    own, doubts = _divided(dev, prompts, seed)
    for note in doubts:
        terminal.note(note)
    loaded = load_sae(sae, note=terminal.note)
    place = asked_site(site, loaded.config.site)
    lm = load_model(model, device, dtype.value, note=terminal.note)
    for note in mismatches(lm, Clamp(loaded, {0: 0.0}, place)):
        terminal.note(note)
    if not lm.has_chat_template:
        terminal.note(NO_TEMPLATE_NOTE)
    with ExitStack() as stack:
        stack.enter_context(torch_threads(lm.model, asked_threads(threads)))
        store = _opened(index, loaded, lm) if index is not None else None
        kept = None
        if out is not None:
            kept = stack.enter_context(_kept(out, lm, loaded, place, max_new_tokens, terminal))
        trial = Trial(
            lm,
            loaded,
            place,
            own.unsafe,
            own.safe,
            max_new_tokens,
            batch_size,
            processes_for(lm.model, processes),
            kept=kept,
        )
        search = Search(
            trial, own.harmful, own.harmless, _neutral(lm, text), archetype, clamped_to, min(limit, loaded.config.d_sae)
        )
        found = run(search, asked, seed, terminal)
        data = recorded(found, search, sae, seed)
        if index is not None and store is not None:
            _store(store, found, data)
            terminal.note(f"stored as columns of {shown(index)}")
        if as_json:
            typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
        else:
            from rich.console import Console

            for table in tables(found):
                Console().print(table)
        if out is not None:  # last: if it fails, what was measured has been told
            write_json(out.resolve(), data)
            terminal.note(f"written to {shown(out)}")


def _divided(files: "list[Path] | None", prompts: int, seed: int) -> "tuple[Dev, list[str]]":
    """The prompts of all files, or those of the embedded model, by kind and part; and what was left out.

    Raises:
        DataError: see ``read_samples`` and ``divided``.
    """
    from steer.evals.sample import read_samples
    from steer.features.dev import divided, embedded_dev, told_apart

    given = [sample for file in files for sample in read_samples(file)] if files else embedded_dev()
    samples, notes = told_apart(given)
    return divided(samples, prompts, seed=seed), notes


@contextmanager
def _kept(
    out: Path, lm: "LanguageModel", sae: "SAE", site: "Site", max_new_tokens: int, terminal: "Terminal"
) -> "Iterator[Kept]":
    """What is measured until ``out`` is written, kept beside it; and what a run that was killed has left there.

    Raises:
        OutputError: it cannot be written, or another run writes there.
    """
    from steer.cli.console import shown
    from steer.features.kept import beside
    from steer.plans.digests import of_sae
    from steer.sweeps.digests import of_model

    with terminal.stage("digest of the model"):
        decides = {
            "model": of_model(lm),
            "dtype": str(next(lm.model.parameters()).dtype),
            "sae": of_sae(sae),
            "site": str(site),
            "max_new_tokens": max_new_tokens,
        }
    with beside(out.resolve(), decides) as kept:
        if kept.replies or kept.damage:
            terminal.note(
                f"going on with {len(kept.replies):,} replies and the damage of {len(kept.damage):,} clamps "
                f"in {shown(kept.path.parent)}"
            )
        yield kept


def _neutral(lm: "LanguageModel", text: str | None) -> list[list[int]]:
    """Token ids of the first texts in which nobody declines anything."""
    from steer.activations.policy import TokenPolicy
    from steer.activations.rows import Rules, token_rows
    from steer.activations.sources.opened import open_source
    from steer.activations.text import embedded_corpus
    from steer.features.search import without_refusals

    rules = Rules.of(TokenPolicy(form="documents"), lm)
    rows = islice(token_rows(lm, open_source(text or embedded_corpus()), rules), CANDIDATE_TEXTS)
    return without_refusals(lm, [list(row.ids) for row, _ in rows if len(row.ids) > 1])[:TEXTS]


def _opened(folder: Path, sae: "SAE", lm: "LanguageModel") -> "FeatureIndex":
    """The index, checked to be of this SAE and model before any work is done."""
    from steer.index.read import FeatureIndex

    return FeatureIndex.open(folder, sae, lm)


def _store(index: "FeatureIndex", found: "Report", data: dict[str, Any]) -> None:
    """Store what the referee measured as columns."""
    from steer.features.columns import columns

    assert found.refereed is not None, "asked for above"
    made_by = {name: data[name] for name in ("command", "prompts", "settings", "plain", "seed")}
    for name, values in columns(found.refereed, index.d_sae).items():
        index.add_column(name, values, made_by)
