"""``steer search``: latents by any mixture of questions."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from steer.cli import search_asked as asked
from steer.cli.interrupts import importing
from steer.cli.notes import say
from steer.cli.options import Device, Dtype, DtypeName, Json, Threads, asked_threads

if TYPE_CHECKING:
    from steer.index.read import FeatureIndex
    from steer.models.model import LanguageModel
    from steer.search.hits import SearchResult
    from steer.search.meaning import Embedder
    from steer.search.query import Query


def search(
    index: asked.Index,
    model: asked.ModelName = None,
    sae: asked.SaeName = None,
    words: asked.Words = None,
    meaning: asked.Meaning = None,
    promotes: asked.Promotes = None,
    suppresses: asked.Suppresses = None,
    prompt: asked.Prompt = None,
    conversation: asked.ConversationFile = None,
    contrast: asked.Contrast = None,
    means: asked.Means = None,
    like: asked.Like = None,
    direction: asked.Direction = None,
    attribute: asked.Attribute = None,
    by: asked.By = None,
    filters: asked.Filters = None,
    weights: asked.Weights = None,
    limit: asked.Limit = 20,
    part: asked.Part = "whole",
    pool: asked.PoolOption = asked.PoolName.max,
    reply_tokens: asked.ReplyTokens = 32,
    on: asked.On = None,
    steps: asked.Steps = None,
    fdr: asked.Fdr = 0.05,
    permutations: asked.Permutations = 1000,
    held_out_frac: asked.HeldOut = 1 / 3,
    resplits: asked.Resplits = 50,
    by_rarity: asked.ByRarity = True,
    embedder: asked.EmbedderFolder = None,
    seed: asked.SplitSeed = 0,
    device: Device = "auto",
    dtype: Dtype = DtypeName.auto,
    threads: Threads = None,
    as_json: Json = False,
    as_csv: asked.AsCsv = False,
    html: asked.Html = None,
    overwrite: asked.Overwrite = False,
) -> None:
    """Find latents by any mixture of words, tokens, prompts, contrasts, directions and attribution.

    Each part ranks the latents, and the rankings are fused by rank; every hit says why it matched.
    """
    _check_together(model, sae, prompt, conversation, attribute, on, as_json and as_csv)
    with importing():
        from steer.checkpoints.load import load_sae
        from steer.cli import search_shown
        from steer.cli.console import import_transformers, shown
        from steer.cli.sae.evaluate import check_file
        from steer.files import write_text
        from steer.index.read import FeatureIndex
        from steer.models.load import load_model
        from steer.search.contrast import ContrastConfig
        from steer.search.meaning import load_embedder
        from steer.search.prompt_sets import read_conversation, read_prompts
        from steer.search.query import AttributionQuery, ContrastQuery, MeansQuery, PromptQuery, Query

        if model is not None or embedder is not None:
            import_transformers()
    if html is not None:
        check_file(html, overwrite, "--html")
    parts: dict[str, Any] = {"words": words, "meaning": meaning, "like": like, "direction": direction, "by": by}
    for name, text in (("promotes", promotes), ("suppresses", suppresses)):
        if text is not None:
            parts[name] = asked.token(text, f"--{name}")
    said = prompt if conversation is None else read_conversation(conversation)
    if said is not None:
        parts["prompt"] = PromptQuery(said, part, pool.value, reply_tokens)
    if contrast is not None:
        config = ContrastConfig(permutations, fdr, held_out_frac, by_rarity, resplits, seed)
        first, second = map(read_prompts, contrast)
        parts["contrast"] = ContrastQuery(first, second, part, pool.value, reply_tokens, config)
    if means is not None:
        parts["means"] = MeansQuery(*map(read_prompts, means))
    if attribute is not None:
        of = read_prompts(on) if on is not None else [said] if said is not None else []
        toward, against = (asked.token(text, "--attribute") for text in attribute)
        parts["attribution"] = AttributionQuery(of, toward, against, steps)
    query = Query(
        **parts, filters=tuple(filters or ()), weights=dict(map(asked.read_weight, weights or ())), limit=limit
    )
    loaded = None if sae is None else load_sae(sae, note=say)
    lm = None if model is None else load_model(model, device, dtype.value, note=say)
    opened = FeatureIndex.open(index, loaded, lm, note=say)
    found = _searched(opened, query, lm, None if embedder is None else load_embedder(embedder), threads)
    for note in found.notes:
        say(note)
    search_shown.print_found(opened, found, "json" if as_json else "csv" if as_csv else "table")
    if html is not None:
        write_text(html.resolve(), search_shown.page(opened, found, query.asked))
        say(f"written to {shown(html)}")


def _check_together(
    model: str | None,
    sae: str | None,
    prompt: str | None,
    conversation: Path | None,
    attribute: tuple[str, str] | None,
    on: Path | None,
    two_forms: bool,
) -> None:
    """Raise typer.BadParameter where options do not go together."""
    if two_forms:
        raise typer.BadParameter("--json and --csv contradict each other: give one")
    if (model is None) != (sae is None):
        raise typer.BadParameter("MODEL and SAE belong together: give both, or the index alone")
    if prompt is not None and conversation is not None:
        raise typer.BadParameter("--prompt and --conversation contradict each other: give one")
    if on is not None and attribute is None:
        raise typer.BadParameter("--on names the prompts of --attribute: give it, or leave --on out")
    if attribute is not None and on is None and prompt is None and conversation is None:
        raise typer.BadParameter("--attribute needs prompts: give --on FILE, --prompt or --conversation")


def _searched(
    index: "FeatureIndex",
    query: "Query",
    lm: "LanguageModel | None",
    embedder: "Embedder | None",
    threads: int | None,
) -> "SearchResult":
    """Search, with as many threads as suit the model."""
    from steer.threads import torch_threads

    if lm is None:
        return index.search(query, embedder=embedder)
    with torch_threads(lm.model, asked_threads(threads)):
        return index.search(query, embedder=embedder)
