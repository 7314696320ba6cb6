"""Losses of SAE training: pure functions of tensors."""

import math
from collections.abc import Callable

import torch

from saes.errors import ShapeError
from saes.shapes import Bool, Float, Tensor


def fvu(x: Float[Tensor, "token d_in"], x_hat: Float[Tensor, "token d_in"]) -> Float[Tensor, ""]:
    """Fraction of variance unexplained: squared error over the variance around the batch mean (0 is perfect).

    Raises nothing; a constant batch has no variance, and the result is then infinite or NaN.
    """
    return (x_hat - x).square().sum() / (x - x.mean(0)).square().sum()


def variance_of(x: Float[Tensor, "token d_in"], summed: Callable[[Tensor], float] | None = None) -> float:
    """Sum of squares around the batch mean, by which an FVU is divided; NaN if it is not finite.

    ``summed`` is a faster way to it (``saes.kernels``).

    Raises:
        ShapeError: it is 0.
    """
    variance = summed(x) if summed else (x - x.mean(0)).square().sum().item()
    if variance == 0:
        raise ShapeError("All activations of a batch are equal, so there is nothing to learn: check the site.")
    return variance if variance < math.inf else math.nan  # dividing by infinity would give a perfect FVU


def auxk(
    residual: Float[Tensor, "token d_in"],
    pre: Float[Tensor, "token d_sae"],
    dead: Bool[Tensor, " d_sae"],
    W_dec: Float[Tensor, "d_sae d_in"],
    k_aux: int,
) -> Float[Tensor, ""]:
    """The AuxK loss: how badly the ``k_aux`` strongest dead latents reconstruct the residual of the live ones.

    ``residual`` is detached here, so that only the dead latents learn from it; the decoder bias is not added a
    second time. Normalised by the residual's own variance (Gao et al., arXiv 2406.04093, appendix A.2).
    """
    n_dead = int(dead.sum())
    if n_dead == 0:
        return residual.new_zeros(())
    target = residual.detach()
    dead_pre = torch.where(dead, pre, torch.zeros_like(pre))
    values, indices = dead_pre.topk(min(k_aux, n_dead), dim=-1, sorted=False)
    dense = torch.zeros_like(pre).scatter(-1, indices, values)
    return fvu(target, dense @ W_dec)
