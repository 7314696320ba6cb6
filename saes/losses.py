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


SumOfSquares = Callable[[Tensor], float | Tensor]
"""Of a batch around its mean, as the kernels' ``variance`` gives it."""


def k_aux_of(d_in: int, dead: int) -> int:
    """How many dead latents AuxK takes of each token: d_in / 2 (arXiv 2406.04093, appendix A.2), or all there are."""
    return min(max(1, d_in // 2), dead)


def spread(
    x: Float[Tensor, "token d"], ranks: Group = ALONE, sum_of_squares: SumOfSquares | None = None
) -> Float[Tensor, ""]:
    """Sum of squares around the mean of a batch, whose tokens may be divided over ``ranks``; a number in float64.

    Each rank sums around the mean of its own tokens; the distances between these means make up what is missing
    (Chan, Golub & LeVeque 1983, eq. 2.1), in float64. So one sum over the ranks is enough.
    ``sum_of_squares`` is a faster way for a rank that is alone (``saes.kernels``).
    """
    if ranks.alone:
        found = sum_of_squares(x) if sum_of_squares else (x - x.mean(0)).square().sum()
        return torch.as_tensor(found, dtype=torch.float64, device=x.device)
    count, own = len(x), x.double().mean(0) if len(x) else x.new_zeros(x.shape[1], dtype=torch.float64)
    inside = (x - own.to(x.dtype)).double().square().sum()
    sums = torch.cat([torch.stack([own.new_full((), count), inside + count * own.square().sum()]), count * own])
    tokens, squares, total = ranks.sum_(sums).split([1, 1, x.shape[1]])
    return (squares - total.square().sum() / tokens).squeeze(0)


def variance_of(
    x: Float[Tensor, "token d_in"], ranks: Group = ALONE, sum_of_squares: SumOfSquares | None = None
) -> Float[Tensor, ""]:
    """Sum of squares around the batch mean, by which an FVU is divided; NaN if it is not finite.

    See ``spread`` for the rest. Whoever reads it refuses a 0 (``require_variance``): reading waits for a GPU.
    """
    variance = spread(x, ranks, sum_of_squares)
    return torch.where(variance < math.inf, variance, math.nan)  # dividing by infinity would give a perfect FVU


def require_variance(variance: float) -> None:
    """See that a batch has some.

    Raises:
        ShapeError: it is 0.
    """
    if variance == 0:
        raise all_equal()


def all_equal() -> ShapeError:
    """The error about a batch without variance."""
    return ShapeError(
        "All activations of a batch are equal, where tokens that differ were expected, so there is nothing to learn. "
        "Check the site, and that the model runs on text."
    )


def auxk(
    residual: Float[Tensor, "token d_in"],
    pre: Float[Tensor, "token d_sae"],
    dead: Bool[Tensor, " d_sae"],
    W_dec: Float[Tensor, "d_sae d_in"],
    k_aux: int,
    variance: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """The AuxK loss: how badly the ``k_aux`` strongest dead latents reconstruct the residual of the live ones.

    It is 0 where none is dead. Nothing in it depends on how many are, so a GPU need not be waited for.

    ``residual`` is detached here, so that only the dead latents learn from it; the decoder bias is not added a
    second time. Normalised by the residual's own variance (Gao et al., arXiv 2406.04093, appendix A.2), or by
    ``variance``, where these are some of the tokens of a batch.
    """
    target = residual.detach()
    dead_pre = torch.where(dead, pre, torch.zeros_like(pre))  # the living may fill up the k_aux, with zeros
    values, indices = dead_pre.topk(min(k_aux, pre.shape[-1]), dim=-1, sorted=False)
    made = torch.zeros_like(pre).scatter(-1, indices, values) @ W_dec
    loss = fvu(target, made) if variance is None else (made - target).square().sum() / variance
    return torch.where(dead.any(), loss, torch.zeros_like(loss))
