"""``/search`` and ``/contrast``: which latent is it (``steer.search``)."""

from steer.explore.bench import Bench
from steer.explore.command import Command, Outcome
from steer.explore.commands.typed_query import contrast_query, search_query
from steer.explore.no_index import NoIndex
from steer.explore.shown import Line, Shown, Table
from steer.explore.state import State
from steer.search.query import Query
from steer.search.run import search as searched


def search(state: State, arguments: str, bench: Bench) -> Outcome:
    """Latents by any mixture of what a ``steer.Query`` asks, fused by rank.

    Raises:
        DataError: nothing is asked for, a part is malformed, or needs an index where there is none.
    """
    return Outcome(state, _found(search_query(arguments, state, bench), bench))


def contrast(state: State, arguments: str, bench: Bench) -> Outcome:
    """What fires more on the prompts of one file than on those of another, with the statistics of it.

    Raises:
        DataError: two files are needed; one cannot be read, or holds too few prompts.
    """
    return Outcome(state, _found(contrast_query(arguments, state, bench), bench))


def _found(query: Query, bench: Bench) -> tuple[Shown, ...]:
    """The hits, and what the user should know of them."""
    index = NoIndex(bench.sae.config.d_sae, bench.renderer) if bench.index is None else bench.index
    result = searched(index, query, bench.lm, bench.sae_here, bench.embedder)
    labels = [bench.label(hit.latent) for hit in result.hits]
    rows = [
        [
            str(hit.latent),
            f"{hit.score:.4f}",
            *([label] if any(labels) else []),
            "; ".join(reason.text for reason in hit.reasons),
        ]
        for hit, label in zip(result.hits, labels, strict=True)
    ]
    columns = ["latent", "score", *(["label"] if any(labels) else []), "why"]
    found: list[Shown] = [Table("Latents found", columns, rows)] if rows else [Line("No latent was found.")]
    return (*found, *(Line(f"note: {note}") for note in result.notes))


SEARCH = Command(
    "search",
    "[WORDS] [meaning=TEXT] [promotes=TOKEN] [suppresses=TOKEN] [prompt=[TEXT]] [contrast=FILE,FILE] [like=LATENT] "
    "[direction=FILE] [means=FILE,FILE] [attribute=TOWARD,AGAINST [on=FILE] [steps=N]] [by=COLUMN] [part=whole] "
    "[pool=max] [reply_tokens=32] [fdr=0.05] [where=CONDITION ...] [weight=PART=NUMBER ...] [limit=N]",
    "find latents by any mixture of these",
    search,
    "query",
)
CONTRAST = Command(
    "contrast",
    "FILE FILE [part=whole] [pool=max] [reply_tokens=32] [fdr=0.05] [limit=N]",
    "what tells two sets of prompts apart",
    contrast,
    "file",
)
