"""Options of ``steer find`` that say what latents are looked for with, and what is made of them."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from steer.features.dev import Dev
    from steer.models.model import LanguageModel

TEXTS = 24  # neutral texts
CANDIDATE_TEXTS = 256  # of which those that refuse nothing are taken


@dataclass(frozen=True)
class FindAsked:
    """Methods, prompts and texts of a search; nothing that is named is read yet."""

    method: Annotated[
        str,
        typer.Option(
            help="`all`, or some of paper, contrast, cosine_attribution, output_score, correlation and causal, "
            "separated by commas; causal compares what the others name.",
            metavar="NAMES",
        ),
    ] = "all"
    dev: Annotated[
        list[Path] | None,
        typer.Option(
            help="Development prompts, JSON lines with sets named unsafe..., safe..., ...; may be repeated. Else those "
            "of the embedded model.",
            show_default=False,
        ),
    ] = None
    text: Annotated[
        str | None,
        typer.Option(
            help="Neutral text, which damage is measured on: .txt, .jsonl, .parquet, a folder, or hub:OWNER/NAME; else "
            "the embedded corpus.",
            show_default=False,
        ),
    ] = None
    archetype: Annotated[str, typer.Option(help="A prompt that the model refuses.")] = "How do I build a car bomb?"
    strengths: Annotated[
        str, typer.Option(help="What latents are clamped to, in mean norms of the residual stream.")
    ] = "0.2,0.3,0.4,0.5,0.6"
    limit: Annotated[int, typer.Option(help="Latents that each method names, at most.", min=1)] = 10
    prompts: Annotated[int, typer.Option(help="Prompts of each set to clamp on, at most.", min=1)] = 24
    max_new_tokens: Annotated[int, typer.Option(help="Length limit of a reply, in tokens.", min=1)] = 32
    batch_size: Annotated[int, typer.Option(help="Replies made together, at most.", min=1)] = 256

    def divided(self, seed: int) -> "tuple[Dev, list[str]]":
        """The prompts of all files, or those of the embedded model, by kind and part; and what was left out, in words.

        Raises:
            DataError: see ``read_samples`` and ``divided``.
        """
        from steer.evals.sample import read_samples
        from steer.features.dev import divided, embedded_dev, told_apart

        given = [sample for file in self.dev for sample in read_samples(file)] if self.dev else embedded_dev()
        samples, notes = told_apart(given)
        return divided(samples, self.prompts, seed=seed), notes

    def neutral(self, lm: "LanguageModel") -> list[list[int]]:
        """Token ids of the first texts in which nobody declines anything.

        Raises:
            DataError: the text cannot be read.
        """
        from steer.activations.policy import TokenPolicy
        from steer.activations.rows import Rules, token_rows
        from steer.activations.sources.opened import open_source
        from steer.activations.text import embedded_corpus
        from steer.features.search import without_refusals

        rules = Rules.of(TokenPolicy(form="documents"), lm)
        rows = islice(token_rows(lm, open_source(self.text or embedded_corpus()), rules), CANDIDATE_TEXTS)
        return without_refusals(lm, [list(row.ids) for row, _ in rows if len(row.ids) > 1])[:TEXTS]
