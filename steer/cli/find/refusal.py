"""``steer find refusal``: the latents that make a model refuse."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.find.asked import FindAsked
from steer.cli.interrupts import importing
from steer.cli.option_groups import with_groups
from steer.cli.options import Device, Dtype, DtypeName, Json, Processes, Seed, Threads, asked_threads, parse_strengths
from steer.cli.sae.evaluate import asked_site, check_file

if TYPE_CHECKING:
    from saes import SAE
    from steer.cli.console import Terminal
    from steer.features.finders import Report
    from steer.features.kept import Kept
    from steer.index.read import FeatureIndex
    from steer.models.model import LanguageModel
    from steer.models.site import Site


@with_groups
def refusal(
    model: Annotated[str, typer.Argument(help="`embedded`, a folder in transformers format, or a hub id.")],
    sae: Annotated[str, typer.Argument(help="A folder such as demo/sae, hub:owner/name/folder, saelens:release/id.")],
    *,
    asked: FindAsked,
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
        from steer.cli.find.shown import recorded, tell
        from steer.features.finders import methods, run
        from steer.features.search import Search
        from steer.features.trial import Trial
        from steer.files import write_json
        from steer.index.read import FeatureIndex
        from steer.models.chat import NO_TEMPLATE_NOTE
        from steer.models.load import load_model
        from steer.steering.latents import Clamp
        from steer.steering.steered import mismatches
        from steer.threads import processes_for, torch_threads

        import_transformers()
    names, clamped_to, terminal = methods(asked.method), parse_strengths(asked.strengths), Terminal()
    if out is not None:
        check_file(out, overwrite)
    if index is not None and "causal" not in names:
        raise typer.BadParameter("--index stores what causal measures: ask for it, --method all or ...,causal")
    dev, left_out = asked.divided(seed)
    for note in left_out:
        terminal.note(note)
    loaded = load_sae(sae, note=terminal.note)
    place = asked_site(site, loaded.config.site)
    lm = load_model(model, device, dtype.value, note=terminal.note)
    for note in mismatches(lm, Clamp(loaded, {0: 0.0}, place)):
        terminal.note(note)
    if not lm.has_chat_template:
        terminal.note(NO_TEMPLATE_NOTE)
    store = None if index is None else FeatureIndex.open(index, loaded, lm)  # before any work is done
    with (
        torch_threads(lm.model, asked_threads(threads)),
        _kept(out, lm, loaded, place, asked.max_new_tokens, terminal) as kept,
    ):
        trial = Trial(
            lm,
            loaded,
            place,
            dev.unsafe,
            dev.safe,
            asked.max_new_tokens,
            asked.batch_size,
            processes_for(lm.model, processes),
            kept=kept,
        )
        limit = min(asked.limit, loaded.config.d_sae)
        search = Search(trial, dev.harmful, dev.harmless, asked.neutral(lm), asked.archetype, clamped_to, limit)
        report = run(search, names, seed, terminal)
        data = recorded(report, search, sae, seed)
        if index is not None and store is not None:
            _store(store, report, data)
            terminal.note(f"stored as columns of {shown(index)}")
        tell(report, data, as_json)
        if out is not None:  # last: if it fails, what was measured has been told
            write_json(out.resolve(), data)
            terminal.note(f"written to {shown(out)}")


@contextmanager
def _kept(
    out: Path | None, lm: "LanguageModel", sae: "SAE", site: "Site", max_new_tokens: int, terminal: "Terminal"
) -> "Iterator[Kept | None]":
    """What is measured until ``out`` is written, kept beside it; and what a run that was killed has left there.

    Without ``out`` nothing is kept.

    Raises:
        OutputError: it cannot be written, or another run writes there.
    """
    from steer.cli.console import shown
    from steer.features.kept import beside
    from steer.plans.digests import of_sae
    from steer.sweeps.digests import of_model

    if out is None:
        yield None
        return
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


def _store(index: "FeatureIndex", report: "Report", data: dict[str, Any]) -> None:
    """Store what the referee measured as columns."""
    from steer.features.columns import columns

    assert report.refereed is not None, "asked for above"
    made_by = {name: data[name] for name in ("command", "prompts", "settings", "plain", "seed")}
    for name, values in columns(report.refereed, index.d_sae).items():
        index.add_column(name, values, made_by)
