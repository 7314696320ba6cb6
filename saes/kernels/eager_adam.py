"""Adam in plain torch, with its averages in float32, bfloat16 or 8 bits: the part of ``saes.kernels.eager`` about it.

Averages in fewer bits are rounded at random, up or down, so that they are right on average. Rounding to the nearest
would freeze the mean of squares, which changes by a thousandth of itself at a step: less than a step of either format.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from saes.shapes import Float, Int, Tensor, UInt8

ROUNDED_AT_ONCE = 2**22  # elements whose averages are float32 for a moment
BLOCK = 256  # neighbours in a row that share a scale


@dataclass(frozen=True)
class AdamStep:
    """The numbers of one step of Adam (Kingma & Ba, arXiv 1412.6980, algorithm 1)."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    number: int
    """Of the step, from 1."""
    clip: float | Float[Tensor, ""] = 1.0
    """What the gradient is multiplied by first. A tensor spares a GPU the wait for its own result."""


AdamKernel = Callable[[Tensor, Tensor, Tensor, Tensor, AdamStep, bool], None]


def adam_(p: Tensor, grad: Tensor, m: Tensor, v: Tensor, step: AdamStep, project: bool = False) -> None:
    """One step of Adam in place on a parameter and its two moments, all of one shape.

    With ``project``, the part of each row's gradient along the row is taken away first, since it would only change the
    row's norm, and each row has norm 1 afterwards (arXiv 2406.04093, appendix A.1).
    """
    if project:
        grad = grad - (grad * p).sum(-1, keepdim=True) * p
    grad = grad * step.clip
    m.lerp_(grad, 1 - step.beta1)
    v.mul_(step.beta2).addcmul_(grad, grad, value=1 - step.beta2)
    root = (v / (1 - step.beta2**step.number)).sqrt_().add_(step.eps)
    p.addcdiv_(m, root, value=-step.lr / (1 - step.beta1**step.number))
    if project:
        p.div_(p.norm(dim=-1, keepdim=True).clamp_min(1e-12))


def adam_bf16_(
    p: Tensor,
    grad: Tensor,
    m: Tensor,
    v: Tensor,
    step: AdamStep,
    key: int,
    project: bool = False,
    adam_: AdamKernel = adam_,
) -> None:
    """``adam_`` with both moments in bfloat16, rounded at random by ``key``, a whole number of 32 bits."""
    for start, weight, slope, mean, square in _parts(p, grad, m, v):
        mean_32, square_32 = mean.float(), square.float()
        adam_(weight, slope, mean_32, square_32, step, project)
        random = noise(start, mean, key)
        mean.copy_(rounded(mean_32, random))
        square.copy_(rounded(square_32, random >> 16))


def adam_8bit_(
    p: Float[Tensor, "row width"],
    grad: Float[Tensor, "row width"],
    m: Int[Tensor, "row width"],
    v: UInt8[Tensor, "row width"],
    scales: tuple[Float[Tensor, "row block"], Float[Tensor, "row block"]],
    step: AdamStep,
    key: int,
    project: bool = False,
    adam_: AdamKernel = adam_,
) -> None:
    """``adam_`` with both moments of a matrix in 8 bits, rounded at random by ``key``.

    Each ``BLOCK`` neighbours of a row share a scale, their largest value, as in arXiv 2110.02861, section 2.1. A code c
    stands for ``sign(c) (c / 127)^2`` of it in ``m`` (int8) and for ``(c / 255)^4`` in ``v`` (uint8): the steps are
    finer near zero, and seven decades of the second moment are told apart. A second moment that is not zero does not
    become zero, since Adam divides by it.
    """
    for start, weight, slope, mean, square, scale, square_scale in _parts(p, grad, m, v, *scales):
        codes, square_codes = mean.float(), square.float()
        mean_32 = codes * codes.abs() * _spread(scale / 127**2, mean.shape[1])
        square_32 = square_codes.square().square() * _spread(square_scale / 255**4, mean.shape[1])
        adam_(weight, slope, mean_32, square_32, step, project)
        random = noise(start, mean, key)
        mean.copy_(_coded(mean_32.abs(), scale, random & 0xFFFF, 2, 127).copysign_(mean_32))
        found = _coded(square_32, square_scale, (random >> 16) & 0xFFFF, 4, 255)
        square.copy_(torch.where(square_32 > 0, found.clamp_min(1), found))


def _parts(p: Tensor, *more: Tensor) -> list[tuple[int, *tuple[Tensor, ...]]]:
    """Some rows of each at a time, with the place of their first element in ``p``."""
    width = p[0].numel()
    rows = max(1, ROUNDED_AT_ONCE // max(1, width))
    split = zip(*(one.split(rows) for one in (p, *more)), strict=True)
    return [(number * rows * width, *tensors) for number, tensors in enumerate(split)]


def noise(start: int, like: Tensor, key: int) -> Int[Tensor, "*any"]:
    """32 random bits for each element, of which ``start`` come before, as int32 (Wellons' ``lowbias32``).

    They depend on an element's place and the key alone, so also kernels that take elements in any order give the same.
    """
    x = torch.arange(start, start + like.numel(), device=like.device).add_(key).bitwise_and_(0xFFFFFFFF)
    x = torch.where(x < 2**31, x, x - 2**32).to(torch.int32)
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * (0x846CA68B - 2**32)
    return (x ^ ((x >> 16) & 0xFFFF)).view(like.shape)


def rounded(x: Tensor, noise: Tensor) -> Tensor:
    """float32 to one of the two nearest bfloat16, the nearer one more often, so that the mean is ``x``.

    A bfloat16 is a float32 without its lower 16 bits: adding 16 random bits carries over just as often. ``noise`` is
    int32, and its lower 16 bits are taken.
    """
    bits = x.view(torch.int32) + (noise & (2**16 - 1))
    return (bits & -(2**16)).view(torch.float32).to(torch.bfloat16)


def blocks_of(width: int) -> int:
    """Number of scales of a row."""
    return -(-width // BLOCK)


def _spread(scale: Float[Tensor, "row block"], width: int) -> Float[Tensor, "row width"]:
    """The scale of each element of a row."""
    return scale.repeat_interleave(BLOCK, 1)[:, :width]


def _coded(
    x: Float[Tensor, "row width"], scale: Float[Tensor, "row block"], noise: Tensor, power: int, most: int
) -> Float[Tensor, "row width"]:
    """Codes c of values that are not negative, ``(c / most)^power`` of their block's largest, which goes to ``scale``.

    Of the two nearest codes the nearer one is taken more often, so that the decoded value is ``x`` on average.
    """
    rows, width = x.shape
    filled = torch.nn.functional.pad(x, (0, scale.shape[1] * BLOCK - width))
    scale.copy_(filled.view(rows, -1, BLOCK).amax(-1))
    least = torch.finfo(torch.float32).tiny
    inverse = torch.where(scale >= least, 1 / scale.clamp_min(least), torch.zeros_like(scale))
    t = x * _spread(inverse, width) * float(most**power)
    low = (t.sqrt() if power == 2 else t.sqrt().sqrt()).floor()
    here, above = low**power, (low + 1) ** power
    return (low + (noise / 65536 * (above - here) < t - here)).clamp_max(most)
