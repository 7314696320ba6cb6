"""Latents to judge a divergence by: others, drawn at random, that would be added as strongly."""

from collections.abc import Sequence

import numpy as np

from steer.explore.bench import Bench

COUNT = 5
"""Latents that are drawn, at most."""
NEAR = 64
"""They are drawn among so many that are nearest in density to those edited, where densities are known."""


def control_latents(edited: Sequence[int], seed: int, bench: Bench) -> tuple[list[int], bool]:
    """Latents of the session's SAE that are not ``edited``, and whether they are matched in density.

    With an index they fire in its text, about as often as the latents that are edited (by
    the median of their log densities), where those fire.
    """
    density = bench.columns.get("density")
    usable = bench.sae.W_dec.detach().norm(dim=-1).cpu().numpy() > 0
    usable[list(edited)] = False
    if density is not None:
        usable &= np.asarray(density) > 0
    latents = np.flatnonzero(usable)
    rates = [] if density is None else [float(density[latent]) for latent in edited if density[latent] > 0]
    if density is not None and rates:
        apart = np.abs(np.log(np.asarray(density, dtype=np.float64)[latents]) - np.median(np.log(rates)))
        latents = latents[np.argsort(apart, kind="stable")[:NEAR]]
    chosen = np.random.default_rng(seed).permutation(latents)[:COUNT]
    return sorted(chosen.tolist()), bool(rates)
