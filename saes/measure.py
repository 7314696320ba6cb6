"""What an SAE is worth on held-out activations."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from saes.batches import as_activations
from saes.errors import ShapeError
from saes.sae import SAE
from saes.shapes import Float, Tensor


@dataclass(frozen=True)
class Quality:
    """Measurements over all tokens given."""

    tokens: int
    fvu: float
    """Fraction of variance unexplained: total squared error over total variance around the mean of all tokens."""
    l0: float
    """Mean number of active latents per token."""
    dead_fraction: float
    """Share of the latents that never fired."""


@dataclass(frozen=True)
class Firing:
    """How often and how strongly each latent fires."""

    density: Float[Tensor, " d_sae"]
    """Share of the tokens on which the latent is active."""
    maximum: Float[Tensor, " d_sae"]
    """Its largest activation."""


@torch.no_grad()
def measure(sae: SAE, batches: Iterable[Float[Tensor, "_ d_in"]]) -> tuple[Quality, Firing]:
    """Run the SAE over batches of activations; sums are kept in float64, and empty batches passed over.

    Raises:
        ShapeError: no tokens were given, or a batch is not of shape [token, d_in], or not finite.
    """
    d_in, d_sae = sae.config.d_in, sae.config.d_sae
    tokens, error, squares, active = 0, 0.0, 0.0, 0.0
    total = torch.zeros(d_in, dtype=torch.float64)
    fired = torch.zeros(d_sae)
    maximum = torch.zeros(d_sae)
    for x in batches:
        x = as_activations(x, d_in)
        if not len(x):  # has no largest activation
            continue
        x = x.to(sae.W_dec.device)
        codes = sae.encode(x)
        tokens += len(x)
        error += (sae.decode(codes) - x).double().square().sum().item()
        squares += x.double().square().sum().item()
        total += x.double().sum(0).cpu()
        active += codes.active().sum().item()
        dense = codes.to_dense().cpu()
        fired += (dense > 0).sum(0)
        maximum = torch.maximum(maximum, dense.amax(0))
    if tokens == 0:
        raise ShapeError("No activations to measure on: got 0 tokens. Give at least one batch.")
    variance = squares - total.square().sum().item() / tokens
    quality = Quality(
        tokens=tokens,
        fvu=error / variance if variance > 0 else float("nan"),
        l0=active / tokens,
        dead_fraction=(fired == 0).float().mean().item(),
    )
    return quality, Firing(density=fired / tokens, maximum=maximum)
