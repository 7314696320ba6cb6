"""Latents by their activation on one prompt or conversation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from saes import SAE
from steer.models.chat import as_conversation
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.search.firing import firing
from steer.search.indexed import Indexed
from steer.search.parts import rows_of
from steer.search.policy import policy_of
from steer.search.pooled import Fired, Pool, by_latent
from steer.search.query import PromptQuery
from steer.search.ranked import Allowed, Ranking, rarity


def by_prompt(
    lm: LanguageModel,
    sae: SAE,
    site: Site,
    query: PromptQuery,
    index: Indexed,
    allowed: Allowed,
    depth: int,
) -> tuple[Ranking, dict[str, Any]]:
    """One forward pass up to the SAE's site, then ``rank_fired``; and how it was computed.

    Errors as ``rows_of`` and ``firing``.
    """
    row = rows_of(lm, [query.prompt], query.part, query.reply_tokens)[0]
    fired = firing(lm, sae, site, [row], policy_of(index, query.part))[0]
    ids = list(row.ids)
    token = index.renderer.text
    ranking = rank_fired(fired, query.pool, index.columns, allowed, depth, lambda place: token([ids[place]]))
    left_out = int(row.counted.sum()) - fired.length
    said = as_conversation(query.prompt)[-1]["content"]
    return ranking, {
        "asked": said,
        "part": query.part,
        "pool": query.pool,
        "tokens": fired.length,
        "tokens_left_out": left_out,
    }


def rank_fired(
    fired: Fired,
    pool: Pool,
    columns: Mapping[str, np.ndarray],
    allowed: Allowed,
    depth: int,
    token: Callable[[int], str],
) -> Ranking:
    """Latents by pooled activation, as a fraction of their maximum, times their rarity.

    Latents live on different scales, and those that fire on everything fire here too: raw activations would rank them
    first. ``columns`` gives ``max`` and ``density`` where the index has them; without, activations count as they are,
    or every latent as equally rare. Of a latent that never fired in the index's text the maximum is not known: the
    median of the others' stands for it. ``token`` is the text at a place in the row.
    """
    latents, values, counts = by_latent(fired, pool)
    if allowed is not None:
        places = np.flatnonzero(allowed[latents])
        latents, values, counts = latents[places], values[places], counts[places]
    tops = _of(columns, "max", latents)
    share = values if tops is None else values / np.where(tops > 0, tops, _usual_top(columns, tops))
    density = _of(columns, "density", latents)
    scores = share if density is None else share * rarity(density)
    order = np.lexsort((latents, -scores))[:depth]

    def says(place: int) -> str:
        at = order[place]
        parts = [f"fires on {counts[at]} of {fired.length} tokens, {pool} {values[at]:.3g}"]
        if tops is not None:
            parts.append(
                f" ({share[at]:.0%} of its maximum)" if tops[at] > 0 else f" ({share[at]:.0%} of a usual maximum)"
            )
        parts.append(f", most on {token(peak_of(fired, int(latents[at])))!r}")
        if density is not None:
            parts.append(f"; elsewhere on {density[at]:.2%} of tokens" if density[at] != 0 else "; elsewhere on none")
        return "".join(parts)

    figure = "activation" + (" / maximum" if tops is not None else "") + (" x rarity" if density is not None else "")
    return Ranking("prompt", latents[order], scores[order], figure, says, len(latents))


def peak_of(fired: Fired, latent: int) -> int:
    """The token on which a latent fires most, as its place in the row."""
    own = np.flatnonzero(fired.latents == latent)
    return int(fired.tokens[own[np.argmax(fired.values[own])]])


def _usual_top(columns: Mapping[str, np.ndarray], tops: Float[np.ndarray, " n"]) -> float:
    """The median of the maxima of latents that ever fired; read where it is needed alone."""
    if (tops > 0).all():
        return 1.0
    every = np.asarray(columns["max"])
    return float(np.median(every[every > 0])) if (every > 0).any() else 1.0


def _of(
    columns: Mapping[str, np.ndarray], name: str, latents: Sequence[int] | np.ndarray
) -> Float[np.ndarray, " n"] | None:
    return np.asarray(columns[name][latents], dtype=np.float64) if name in columns else None
