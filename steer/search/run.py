"""``search``: every part of a query ranks the latents, and the rankings are fused."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from saes import SAE
from steer.errors import DataError
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.search.attribution import attributions
from steer.search.contrast import Contrasted, contrast
from steer.search.direction import along, read_direction, row_of
from steer.search.filters import allowed as allowed_by
from steer.search.firing import firing
from steer.search.fuse import fused
from steer.search.hits import SearchResult
from steer.search.indexed import Indexed
from steer.search.lists import by_column, by_listed_token, by_meaning, by_words
from steer.search.logits import first_token, promotes, token_id
from steer.search.meaning import Embedder
from steer.search.parts import rows_of
from steer.search.pooled import pooled
from steer.search.prompt import by_prompt
from steer.search.prompt_sets import distinct
from steer.search.query import AttributionQuery, ContrastQuery, Query
from steer.search.ranked import Ranking, best_first
from steer.steering.directions import refusal_direction
from steer.steering.latents import check_width, site_of

Allowed = Bool[np.ndarray, " d_sae"] | None


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
            if not len(ranking.latents):
                self.notes.append(f"{ranking.kind}: no latent matches.")
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
        return by_words(self.index, str(self.query.words), self.allowed, self.query.depth)

    def meaning(self) -> Ranking:
        if self._embedder is None:
            raise DataError("A search by meaning needs an embedder: give the folder of a local one.")
        return by_meaning(self.index, str(self.query.meaning), self._embedder, self.allowed, self.query.depth)

    def promotes(self) -> Ranking:
        return self._token("promotes", self.query.promotes, 1.0)

    def suppresses(self) -> Ranking:
        return self._token("suppresses", self.query.suppresses, -1.0)

    def _token(self, kind: Any, token: str | int | None, sign: float) -> Ranking:
        """By the logit lens over all latents; without a model and SAE, by the lists that the index keeps."""
        assert token is not None
        if self._lm is None or self._sae is None:
            number = token if self._lm is None and isinstance(token, int) else token_id(self.lm, token)
            return by_listed_token(self.index, kind, number, self._shown(number), self.allowed, self.query.depth)
        number = token_id(self.lm, token)
        shown = self._shown(number)
        scores = sign * _numbers(promotes(self.lm, self.sae, number))
        return self._dense(
            kind, scores, "cosine", lambda score: f"{kind} {shown}: cosine {score:.3f} by the logit lens"
        )

    def prompt(self) -> Ranking:
        assert self.query.prompt is not None
        return by_prompt(self.lm, self.sae, self.site, self.query.prompt, self.index, self.allowed, self.query.depth)

    def contrast(self) -> Ranking:
        asked = self.query.contrast
        assert asked is not None
        density = self.index.columns.get("density")
        found, notes = contrasted(self.lm, self.sae, self.site, asked, density)
        self.notes += [f"contrast: {note}" for note in (*notes, *found.notes)]
        self.about["contrast"] = _told(asked, found)
        order = found.order(asked.config.fdr)
        if not len(order):
            self.notes.append(
                f"contrast: no latent tells the sets apart at a false discovery rate of {asked.config.fdr:g} (the "
                f"least is "
                f"{found.q.min():.2g}, of {len(found.latents):,} tested)."
            )
        if self.allowed is not None:
            order = order[self.allowed[found.latents[order]]]
        order = order[: self.query.depth]
        figure = "AUC effect x rarity" if asked.config.by_rarity else "AUC effect"
        return Ranking(
            "contrast", found.latents[order], found.score[order], figure,
            lambda place: says_contrast(found, int(order[place])), len(found.latents),
        )  # fmt: skip

    def like(self) -> Ranking:
        latent = self.query.like
        assert latent is not None
        scores = _numbers(along(self.sae.W_dec, row_of(self.sae, latent)))
        scores[latent] = 0.0
        return self._dense("like", scores, "cosine", lambda score: f"writes like latent {latent}: cosine {score:.3f}")

    def direction(self) -> Ranking:
        given = self.query.direction
        if isinstance(given, str | Path):
            name = Path(given).name
            given = _from_file(str(given))
        else:
            name = "the direction"
        assert given is not None
        scores = _numbers(along(self.sae.W_dec, given))
        return self._dense("direction", scores, "cosine", lambda score: f"writes along {name}: cosine {score:.3f}")

    def means(self) -> Ranking:
        asked = self.query.means
        assert asked is not None
        first, second, notes = distinct(asked.first, asked.second)
        self.notes += [f"means: {note}" for note in notes]
        site = self.site if not self.sae.config.is_transcoder else Site.parse(str(self.sae.config.site_out))
        direction = refusal_direction(self.lm, site, first, second)
        self.about["means"] = {"prompts": [len(first), len(second)], "site": str(site), "token": "last of the prompt"}
        text = f"writes along the difference in means of {len(first)} and {len(second)} prompts: cosine"
        return self._dense(
            "means", _numbers(along(self.sae.W_dec, direction)), "cosine", lambda score: f"{text} {score:.3f}"
        )

    def attribution(self) -> Ranking:
        asked = self.query.attribution
        assert asked is not None
        toward, against = (first_token(self.lm, one) for one in (asked.toward, asked.against))
        scores = attributions(self.lm, self.sae, self.site, asked.prompts, toward, against, asked.steps)
        shown = [self._shown(one) for one in (toward, against)]
        self.about["attribution"] = _told_attribution(asked, toward, against)
        text = f"of the logit of {shown[0]} less that of {shown[1]}"
        return self._dense("attribution", scores, "logits", lambda score: f"adds {score:+.3g} {text}")

    def _shown(self, token: int) -> str:
        return repr(self.index.renderer.text([token]))

    def by(self) -> Ranking:
        return by_column(self.index, str(self.query.by), self.allowed, self.query.depth)

    def _dense(
        self, kind: str, scores: Float[np.ndarray, " d_sae"], figure: str, says: Callable[[float], str]
    ) -> Ranking:
        latents = best_first(scores, self.allowed, self.query.depth)
        return Ranking(
            kind, latents, scores[latents], figure, lambda place: says(float(scores[latents[place]])), len(scores)
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


def contrasted(
    lm: LanguageModel, sae: SAE, site: Site, asked: ContrastQuery, density: np.ndarray | None
) -> tuple[Contrasted, list[str]]:
    """The test of all latents on two sets of prompts, and notes of what was left out. Errors as ``contrast``."""
    first, second, notes = distinct(asked.first, asked.second)
    rows = rows_of(lm, [*first, *second], asked.part, asked.reply_tokens)
    matrix = pooled(firing(lm, sae, site, rows), sae.config.d_sae, asked.pool)
    return contrast(matrix, np.arange(len(rows)) < len(first), asked.config, density), notes


def says_contrast(found: Contrasted, place: int) -> str:
    """One latent's figures in words."""
    rates = f"fires on {found.firing_first[place]:.0%} against {found.firing_second[place]:.0%} of prompts"
    tested = (
        f"AUC {found.auc[place]:.2f}, p {found.p[place]:.2g}, q {found.q[place]:.2g} (n = {found.n[0]} + {found.n[1]})"
    )
    if not np.isfinite(found.held_auc[place]):
        return f"{rates}; {tested}"
    interval = f"{found.held_low[place]:.2f} to {found.held_high[place]:.2f}"
    n = f"n = {found.n_held[0]} + {found.n_held[1]}"
    return f"{rates}; held-out AUC {found.held_auc[place]:.2f} ({interval}, {n}); {tested}"


def _told(asked: ContrastQuery, found: Contrasted) -> dict[str, Any]:
    return {
        **asdict(asked.config),
        "part": asked.part,
        "pool": asked.pool,
        "prompts": list(found.n),
        "prompts_held_out": list(found.n_held),
        "prompts_without_match": list(found.unmatched),
        "strata_of_length": found.strata,
        "latents_tested": len(found.latents),
        "latents_found": len(found.order(asked.config.fdr)),
    }


def _told_attribution(asked: AttributionQuery, toward: int, against: int) -> dict[str, Any]:
    method = "gradient x activation" if asked.steps is None else "integrated gradients"
    return {"method": method, "steps": asked.steps, "toward": toward, "against": against, "prompts": len(asked.prompts)}


def _numbers(tensor: Float[Tensor, " d_sae"]) -> Float[np.ndarray, " d_sae"]:
    return tensor.cpu().numpy().astype(np.float64)


def _from_file(given: str) -> Any:
    """The vector of ``FILE`` or ``FILE:TENSOR``."""
    path, colon, name = given.rpartition(":")
    if colon and not Path(given).exists():
        return read_direction(path, name)
    return read_direction(given)
