"""Losses of SAE training: pure functions of tensors."""

import math
from collections.abc import Callable

import torch

from saes.distributed.group import ALONE, Group
from saes.errors import ShapeError
from saes.shapes import Bool, Float, Tensor


def fvu(x: Float[Tensor, "token d_in"], x_hat: Float[Tensor, "token d_in"]) -> Float[Tensor, ""]:
    """Fraction of variance unexplained: squared error over the variance around the batch mean (0 is perfect).

    Raises nothing; a constant batch has no variance, and the result is then infinite or NaN.
    """
    return (x_hat - x).square().sum() / (x - x.mean(0)).square().sum()


Summed = Callable[[Tensor], float]


def spread(x: Float[Tensor, "token d"], ranks: Group = ALONE, summed: Summed | None = None) -> float:
    """Sum of squares around the mean of a batch, whose tokens may be divided over ``ranks``.

    Each rank sums around the mean of its own tokens; the distances between these means make up what is missing
    (Chan, Golub & LeVeque 1983, eq. 2.1), in float64. So one sum over the ranks is enough.
    ``summed`` is a faster way for a rank that is alone (``saes.kernels``).
    """
    if ranks.alone:
        return summed(x) if summed else (x - x.mean(0)).square().sum().item()
    count, own = len(x), x.double().mean(0) if len(x) else x.new_zeros(x.shape[1], dtype=torch.float64)
    inside = (x - own.to(x.dtype)).double().square().sum()
    sums = torch.cat([torch.stack([own.new_tensor(count), inside + count * own.square().sum()]), count * own])
    tokens, squares, total = ranks.sum_(sums).split([1, 1, x.shape[1]])
    return (squares - total.square().sum() / tokens).item()


def variance_of(x: Float[Tensor, "token d_in"], ranks: Group = ALONE, summed: Summed | None = None) -> float:
    """Sum of squares around the batch mean, by which an FVU is divided; NaN if it is not finite.

    See ``spread`` for the rest.

    Raises:
        ShapeError: it is 0.
    """
    variance = spread(x, ranks, summed)
    if variance == 0:
        raise ShapeError("All activations of a batch are equal, so there is nothing to learn: check the site.")
    return variance if variance < math.inf else math.nan  # dividing by infinity would give a perfect FVU


def auxk(
    residual: Float[Tensor, "token d_in"],
    pre: Float[Tensor, "token d_sae"],
    dead: Bool[Tensor, " d_sae"],
    W_dec: Float[Tensor, "d_sae d_in"],
    k_aux: int,
    variance: float | None = None,
) -> Float[Tensor, ""]:
    """The AuxK loss: how badly the ``k_aux`` strongest dead latents reconstruct the residual of the live ones.

    ``residual`` is detached here, so that only the dead latents learn from it; the decoder bias is not added a
    second time. Normalised by the residual's own variance (Gao et al., arXiv 2406.04093, appendix A.2), or by
    ``variance``, where these are some of the tokens of a batch.
    """
    n_dead = int(dead.sum())
    if n_dead == 0:
        return residual.new_zeros(())
    target = residual.detach()
    dead_pre = torch.where(dead, pre, torch.zeros_like(pre))
    values, indices = dead_pre.topk(min(k_aux, n_dead), dim=-1, sorted=False)
    dense = torch.zeros_like(pre).scatter(-1, indices, values)
    return fvu(target, dense @ W_dec) if variance is None else (dense @ W_dec - target).square().sum() / variance
