"""``search``: every part of a query ranks the latents, and the rankings are fused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from saes import SAE
from steer.errors import DataError
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.search.attribution import attributions
from steer.search.by_column import by_column
from steer.search.by_contrast import by_contrast
from steer.search.by_meaning import by_meaning
from steer.search.by_prompt import by_prompt
from steer.search.by_token import Pushes, by_listed_token, by_token
from steer.search.by_words import by_words
from steer.search.decoders import nearest
from steer.search.direction import read_direction, row_of
from steer.search.filters import allowed as allowed_by
from steer.search.fuse import fused
from steer.search.hits import SearchResult
from steer.search.indexed import Indexed
from steer.search.logits import first_token
from steer.search.meaning import Embedder
from steer.search.policy import IndexPolicy
from steer.search.prompt_sets import distinct
from steer.search.query import AttributionQuery, Query
from steer.search.ranked import Ranking, ranked
from steer.search.token_text import listed_token, token_meant
from steer.steering.directions import refusal_direction
from steer.steering.latents import check_width, site_of


def search(
    index: Indexed,
    query: Query,
    lm: LanguageModel | None = None,
    sae: SAE | None = None,
    embedder: Embedder | None = None,
) -> SearchResult:
    """The latents that match a query best, and why.

    Each part that is given ranks the latents that the filters leave; the rankings are fused by rank
    (``steer.search.fuse``), so that figures of different kinds need no common scale.

    Args:
        index: a ``FeatureIndex``.
        query: what is asked.
        lm: the model; needed for prompts, contrasts, means, attribution, and tokens given as text.
        sae: the SAE of the index; needed for these and for directions.
        embedder: needed for ``meaning``.

    Raises:
        DataError: something that a part needs is missing, malformed or too little.
        PlanError: the SAE does not fit the model, or does not say where it reads.
    """
    return _Search(index, query, lm, sae, embedder).run()


class _Search:
    """One search under way."""

    def __init__(
        self, index: Indexed, query: Query, lm: LanguageModel | None, sae: SAE | None, embedder: Embedder | None
    ) -> None:
        self.index, self.query, self._lm, self._sae, self._embedder = index, query, lm, sae, embedder
        self.notes: list[str] = []
        self.about: dict[str, Any] = {}
        if sae is not None and sae.config.d_sae != index.d_sae:
            raise DataError(
                f"The index has {index.d_sae} latents, the SAE {sae.config.d_sae}. Use the SAE it was built with."
            )
        self.allowed = allowed_by(query.filters, index.columns, lambda: np.flatnonzero(index.labelled()), index.d_sae)

    def run(self) -> SearchResult:
        if self.allowed is not None and not self.allowed.any():
            self.notes.append(f"no latent passes the filters {', '.join(self.query.filters)}.")
            return SearchResult((), tuple(self.notes))
        rankings = [_RANK[part](self) for part in self.query.asked]
        for ranking in rankings:
            said = f"{ranking.kind}: no latent "
            if not len(ranking.latents) and not any(note.startswith(said) for note in self.notes):
                self.notes.append(f"{said}matches.")
        hits = fused(rankings, self.query.weights, self.query.limit, self.query.k)
        return SearchResult(tuple(hits), tuple(self.notes), tuple(self.about.items()))

    @property
    def lm(self) -> LanguageModel:
        if self._lm is None:
            raise DataError(f"This search needs the model: {', '.join(self.query.asked)}. Give it, with its SAE.")
        return self._lm

    @property
    def sae(self) -> SAE:
        if self._sae is None:
            raise DataError(f"This search needs the SAE: {', '.join(self.query.asked)}. Give it, with its model.")
        return self._sae

    @property
    def site(self) -> Site:
        check_width(self.sae, self.lm.d_model)
        return site_of(self.sae, None)

    def words(self) -> Ranking:
        self.about["words"] = {"asked": self.query.words}
        return by_words(self.index, str(self.query.words), self.allowed, self.query.depth)

    def meaning(self) -> Ranking:
        if self._embedder is None:
            raise DataError("A search by meaning needs an embedder: give the folder of a local one.")
        ranking, labels = by_meaning(
            self.index, str(self.query.meaning), self._embedder, self.allowed, self.query.depth
        )
        self.about["meaning"] = {
            "asked": self.query.meaning, "labels": len(labels.vectors), "labels_read_now": labels.computed
        }  # fmt: skip
        if labels.note:
            self.notes.append(f"meaning: {labels.note}")
        return ranking

    def promotes(self) -> Ranking:
        return self._token("promotes", self.query.promotes)

    def suppresses(self) -> Ranking:
        return self._token("suppresses", self.query.suppresses)

    def _token(self, kind: Pushes, token: str | int | None) -> Ranking:
        """By the logit lens over all latents; without a model and SAE, by the lists that the index keeps."""
        assert token is not None
        alone = self._lm is None or self._sae is None
        number, note = listed_token(self.index, token) if self._lm is None else token_meant(self._lm, token)
        if note:
            self.notes.append(f"{kind}: {note}")
        shown = self._shown(number)
        self.about[kind] = {"token": number, "text": self.index.renderer.text([number]), "of_all_latents": not alone}
        if alone:
            return by_listed_token(self.index, kind, number, shown, self.allowed, self.query.depth)
        return by_token(self.lm, self.sae, kind, number, shown, self.allowed, self.query.depth)

    def prompt(self) -> Ranking:
        assert self.query.prompt is not None
        ranking, self.about["prompt"] = by_prompt(
            self.lm, self.sae, self.site, self.query.prompt, self.index, self.allowed, self.query.depth
        )
        return ranking

    def contrast(self) -> Ranking:
        asked = self.query.contrast
        assert asked is not None
        found = by_contrast(self.lm, self.sae, self.site, asked, self.index, self.allowed, self.query.depth)
        self.notes += found.notes
        self.about["contrast"] = found.about
        return found.ranking

    def like(self) -> Ranking:
        latent = self.query.like
        assert latent is not None
        self.about["like"] = {"latent": latent}
        return self._along("like", row_of(self.sae, latent), f"writes like latent {latent}", latent)

    def direction(self) -> Ranking:
        given = self.query.direction
        if isinstance(given, str | Path):
            name = Path(given).name
            given = _from_file(str(given))
        else:
            name = "the direction"
        assert given is not None
        self.about["direction"] = {"of": name}
        return self._along("direction", given, f"writes along {name}")

    def means(self) -> Ranking:
        asked = self.query.means
        assert asked is not None
        first, second, notes = distinct(asked.first, asked.second)
        self.notes += [f"means: {note}" for note in notes]
        site = self.site if not self.sae.config.is_transcoder else Site.parse(str(self.sae.config.site_out))
        direction = refusal_direction(self.lm, site, first, second)
        self.about["means"] = {"prompts": [len(first), len(second)], "site": str(site), "token": "last of the prompt"}
        text = f"writes along the difference in means of {len(first)} and {len(second)} prompts"
        return self._along("means", direction, text)

    def attribution(self) -> Ranking:
        asked = self.query.attribution
        assert asked is not None
        toward, against = (first_token(self.lm, one) for one in (asked.toward, asked.against))
        scores = attributions(
            self.lm, self.sae, self.site, asked.prompts, toward, against, asked.steps, IndexPolicy.of(self.index)
        )
        shown = [self._shown(one) for one in (toward, against)]
        self.about["attribution"] = _told_attribution(asked, toward, against)
        text = f"logit {shown[0]} - logit {shown[1]}"
        depth = self.query.depth
        return ranked("attribution", scores, "logits", lambda one: f"adds {one:+.3g} to {text}", self.allowed, depth)

    def _shown(self, token: int) -> str:
        return repr(self.index.renderer.text([token]))

    def by(self) -> Ranking:
        self.about["by"] = {"column": self.query.by}
        return by_column(self.index, str(self.query.by), self.allowed, self.query.depth)

    def _along(self, kind: str, direction: Float[Tensor, " width"], text: str, leave_out: int | None = None) -> Ranking:
        allowed = self.allowed
        if leave_out is not None:
            allowed = np.ones(self.index.d_sae, dtype=bool) if allowed is None else allowed.copy()
            allowed[leave_out] = False
        # alone it is not fused with anything, which is what a deep ranking is for
        depth = self.query.depth if len(self.query.asked) > 1 else min(self.query.depth, self.query.limit)
        latents, cosines = nearest(self.sae, direction, depth, allowed)
        return Ranking(
            kind,
            latents,
            cosines,
            "cosine",
            lambda place: f"{text}: cosine {cosines[place]:.3f}",
            self.index.d_sae,
        )


_RANK: dict[str, Callable[[_Search], Ranking]] = {
    "words": _Search.words,
    "meaning": _Search.meaning,
    "promotes": _Search.promotes,
    "suppresses": _Search.suppresses,
    "prompt": _Search.prompt,
    "contrast": _Search.contrast,
    "like": _Search.like,
    "direction": _Search.direction,
    "means": _Search.means,
    "attribution": _Search.attribution,
    "by": _Search.by,
}


def _told_attribution(asked: AttributionQuery, toward: int, against: int) -> dict[str, Any]:
    method = "gradient x activation" if asked.steps is None else "integrated gradients"
    return {"method": method, "steps": asked.steps, "toward": toward, "against": against, "prompts": len(asked.prompts)}


def _from_file(given: str) -> Any:
    """The vector of ``FILE`` or ``FILE:TENSOR``."""
    path, colon, name = given.rpartition(":")
    if colon and not Path(given).exists():
        return read_direction(path, name)
    return read_direction(given)
