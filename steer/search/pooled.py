"""Activations of latents pooled over the tokens of each prompt, kept sparse."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csc_array, csr_array, vstack

from steer.errors import DataError

Pool = Literal["max", "mean"]


@dataclass(frozen=True)
class Fired:
    """What fired on the tokens of one prompt that count."""

    latents: Int[np.ndarray, " fired"]
    """One for each token and latent active on it."""
    values: Float[np.ndarray, " fired"]
    """Its activation, in raw units."""
    tokens: Int[np.ndarray, " fired"]
    """The token's place in the row."""
    length: int
    """Tokens that count."""


@dataclass(frozen=True)
class Pooled:
    """Activations of every latent on every prompt."""

    values: csc_array
    """[prompt, d_sae], raw units; absent: 0."""
    lengths: Int[np.ndarray, " prompt"]
    """Tokens that were pooled, of each prompt."""
    density: Float[np.ndarray, " d_sae"]
    """Share of all these tokens on which each latent fires."""

    def dense(self, latents: Int[np.ndarray, " latent"]) -> Float[np.ndarray, "prompt latent"]:
        """Those of some latents."""
        found: Float[np.ndarray, "prompt latent"] = self.values[:, latents].toarray()
        return found


def by_latent(fired: Fired, pool: Pool) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """The latents that fired, in order, with their pooled activation and the number of tokens they fired on."""
    order = np.argsort(fired.latents, kind="stable")
    latents, starts = np.unique(fired.latents[order], return_index=True)
    values = fired.values[order].astype(np.float64)
    counts = np.diff([*starts, len(order)])
    if not len(latents):
        return latents, values, counts
    if pool == "max":
        return latents, np.maximum.reduceat(values, starts), counts
    return latents, np.add.reduceat(values, starts) / fired.length, counts


def pooled(prompts: Sequence[Fired], d_sae: int, pool: Pool) -> Pooled:
    """What fired on some prompts, the largest (``max``) or the average (``mean``, silent tokens too) of each.

    Raises:
        DataError: ``pool`` is neither.
    """
    if pool not in get_args(Pool):
        raise DataError(f"pool must be one of {', '.join(get_args(Pool))}, got {pool!r}.")
    rows, firing, tokens = [], np.zeros(d_sae, dtype=np.int64), 0
    for one in prompts:
        latents, values, counts = by_latent(one, pool)
        firing[latents] += counts
        tokens += one.length
        rows.append(csr_array((values, (np.zeros_like(latents), latents)), shape=(1, d_sae)))
    lengths = np.array([one.length for one in prompts], dtype=np.int64)
    return Pooled(csc_array(vstack(rows)), lengths, firing / max(1, tokens))
