"""Feature absorption: latents that fire for a concept, but leave out tokens that another latent has taken over.

Definitions and thresholds of Chanin et al. (arXiv 2409.14507) as SAEBench computes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from saes.shapes import Bool, Float, Int, Tensor

FULL_COSINE = 0.025  # least cosine of an absorbing latent with the probe, full absorption
FRACTION_COSINE = 0.1  # the same, absorption fraction
PROPORTION = 0.4  # least share of the probe's projection that the absorbing latents carry
ABSORBERS = 3  # at most so many absorb together, absorption fraction
F1_JUMP = 0.03  # least gain in F1 by which another latent counts as a split of the concept
_SILENT = 1e-8


@dataclass(frozen=True)
class Absorbed:
    """What became of a concept on tokens that have it."""

    fraction: Float[Tensor, " n"]
    """Share of the concept's projection that absorbing latents carry instead of its own, 0 to 1."""
    full: Bool[Tensor, " n"]
    """Whether none of its latents fire and a single other one carries it."""


def split_latents(ranked: Int[Tensor, " k"], f1: Sequence[float], jump: float = F1_JUMP) -> Int[Tensor, " n_split"]:
    """The concept's own latents: the first of ``ranked``, and more as long as F1 rises by more than ``jump``.

    ``f1[k - 1]`` is the F1 of the probe on the first k.
    """
    best, count = float("-inf"), 0
    for score in f1:
        if score <= best + jump:
            break
        best, count = score, count + 1
    return ranked[:count]


def absorbed(
    x: Float[Tensor, "n d_in"],
    codes: Float[Tensor, "n d_sae"],
    W_dec: Float[Tensor, "d_sae d_in"],
    direction: Float[Tensor, " d_in"],
    own: Int[Tensor, " n_split"],
) -> Absorbed:
    """Absorption on tokens with the concept that ``direction`` probes and the latents ``own`` stand for.

    A latent's part in the probe's projection is its activation times ``W_dec[i] . direction / |direction|``.
    """
    direction = direction.to(W_dec) / direction.norm()
    along = W_dec @ direction
    cosine = along / W_dec.norm(dim=-1).clamp_min(1e-12)
    parts = codes * along
    projection = x.to(W_dec) @ direction
    main = parts[:, own].sum(-1)
    return Absorbed(_fraction(parts, projection, main, cosine, own), _full(codes, parts, projection, cosine, own))


def _fraction(parts: Tensor, projection: Tensor, main: Tensor, cosine: Tensor, own: Tensor) -> Tensor:
    candidates = cosine >= FRACTION_COSINE
    candidates[own] = False
    others = torch.where(candidates & (parts > 0), parts, torch.zeros_like(parts))
    others = others.topk(min(ABSORBERS, parts.shape[1])).values.sum(-1)
    partly = torch.minimum(others, projection - main)
    fraction = (partly / (partly + main)).clamp(0, 1)
    fraction = torch.where(main <= 0, torch.ones_like(fraction), fraction)
    none = (main >= projection) | (others / projection < PROPORTION)
    return torch.where(none, torch.zeros_like(fraction), fraction)


def _full(codes: Tensor, parts: Tensor, projection: Tensor, cosine: Tensor, own: Tensor) -> Tensor:
    silent = (codes[:, own] < _SILENT).all(-1)
    top, latent = parts.max(-1)
    return silent & (cosine[latent] >= FULL_COSINE) & (projection > 0) & (top / projection >= PROPORTION)
