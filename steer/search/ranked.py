"""Rankings of latents: what one kind of search finds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

Allowed = Bool[np.ndarray, " d_sae"] | None
"""Which latents may be in a ranking; None: all."""
LEAST_DENSITY = 1e-6  # a latent that never fired in the index's text may fire on one token in a million


@dataclass(frozen=True)
class Ranking:
    """Latents in order, best first, with the figure that they are ordered by."""

    kind: str
    """What was asked, as ``Query`` names it: ``words``, ``prompt``, ..."""
    latents: Int[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    figure: str
    """What the scores are, for people."""
    says: Callable[[int], str]
    """From a place in the ranking, the reason in words."""
    of: int
    """Latents that could have been in it."""


def best_first(scores: Float[np.ndarray, " d_sae"], allowed: Allowed, depth: int) -> Int[np.ndarray, " n"]:
    """At most ``depth`` latents with a positive score, the largest first; of equals the one with the lower number.

    Scores that are not finite, and latents that are not ``allowed``, are left out.
    """
    candidates = np.flatnonzero((scores > 0) & np.isfinite(scores) & (True if allowed is None else allowed))
    own = scores[candidates]
    if len(candidates) > depth:
        least = np.partition(own, len(own) - depth)[len(own) - depth]  # ties with it are all looked at
        candidates = candidates[own >= least]
        own = scores[candidates]
    found: Int[np.ndarray, " n"] = candidates[np.lexsort((candidates, -own))][:depth]
    return found


def ranked(
    kind: str,
    scores: Float[np.ndarray, " d_sae"],
    figure: str,
    says: Callable[[float], str],
    allowed: Allowed,
    depth: int,
) -> Ranking:
    """Scores of all latents as a ranking of those that are positive; ``says`` gives the reason from a score."""
    latents = best_first(scores, allowed, depth)
    return Ranking(
        kind, latents, scores[latents], figure, lambda place: says(float(scores[latents[place]])), len(scores)
    )


def listed(
    kind: str,
    found: Sequence[tuple[int, float]],
    figure: str,
    says: Callable[[int, float], str],
    allowed: Allowed,
    depth: int,
    of: int,
) -> Ranking:
    """A list of latents with scores, best first, as a ranking of at most ``depth`` that are allowed.

    ``says`` gives the reason from a latent and its score; ``of``: latents that could have been in the list.
    """
    places = _kept([latent for latent, _ in found], allowed, depth)
    latents = np.array([found[place][0] for place in places], dtype=np.int64)
    scores = np.array([found[place][1] for place in places], dtype=np.float64)
    return Ranking(kind, latents, scores, figure, lambda place: says(int(latents[place]), float(scores[place])), of)


def rarity(density: Float[np.ndarray, " d_sae"]) -> Float[np.ndarray, " d_sae"]:
    """How much a latent's firing says: ``log10(1 / density) / 6``, from 0 (on every token) to 1 (one in a million).

    The inverse document frequency of Sparck Jones (1972), of tokens: large activations of latents that fire everywhere
    are no news. ``density`` is the share of tokens on which a latent fires.
    """
    clipped = np.clip(np.nan_to_num(np.asarray(density, dtype=np.float64), nan=1.0), LEAST_DENSITY, 1.0)
    found: Float[np.ndarray, " d_sae"] = np.log10(clipped) / np.log10(LEAST_DENSITY)
    return found


def _kept(latents: Sequence[int], allowed: Allowed, depth: int) -> list[int]:
    """Places of the first ``depth`` latents of a list that are allowed, each where it stands first."""
    places: dict[int, int] = {}
    for place, latent in enumerate(latents):
        if allowed is None or allowed[latent]:
            places.setdefault(latent, place)
    return list(places.values())[:depth]
