"""Rankings of latents: what one kind of search finds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

Floats = NDArray[np.floating]
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


def best_first(
    scores: Float[np.ndarray, " d_sae"], allowed: Bool[np.ndarray, " d_sae"] | None, depth: int
) -> Int[np.ndarray, " n"]:
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


def kept(latents: Sequence[int], allowed: Bool[np.ndarray, " d_sae"] | None, depth: int) -> list[int]:
    """Places of the first ``depth`` latents of a list that are allowed, each where it stands first."""
    places: dict[int, int] = {}
    for place, latent in enumerate(latents):
        if allowed is None or allowed[latent]:
            places.setdefault(latent, place)
    return list(places.values())[:depth]


def rarity(density: Float[np.ndarray, " d_sae"]) -> Float[np.ndarray, " d_sae"]:
    """How much a latent's firing says: ``log10(1 / density) / 6``, from 0 (on every token) to 1 (one in a million).

    The inverse document frequency of Sparck Jones (1972), of tokens: large activations of latents that fire everywhere
    are no news. ``density`` is the share of tokens on which a latent fires.
    """
    clipped = np.clip(np.nan_to_num(np.asarray(density, dtype=np.float64), nan=1.0), LEAST_DENSITY, 1.0)
    found: Float[np.ndarray, " d_sae"] = np.log10(clipped) / np.log10(LEAST_DENSITY)
    return found
