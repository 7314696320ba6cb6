"""What is done to activations before an SAE is trained on them, and undone in its weights afterwards."""

import math
from dataclasses import dataclass

import torch

from saes.config import BDecInit
from saes.shapes import Bool, Float, Tensor


@dataclass(frozen=True)
class Scale:
    """The factor ``2^exponent * factor`` between raw activations and those that the SAE is trained on.

    In two parts, because activations near either end of float32's range have norms, and need factors, beyond it.
    Multiplying by a power of two is exact, so for ordinary activations nothing is rounded that would not be anyway.
    """

    exponent: int = 0
    factor: float = 1.0

    @classmethod
    def of(cls, x: Float[Tensor, "token d_in"]) -> "Scale":
        """The scale that gives ``x`` a mean norm of sqrt(d_in)."""
        exponent = _exponent(x)
        norm = _times_power(x, exponent).norm(dim=-1).mean().item()
        return cls(exponent, x.shape[-1] ** 0.5 / norm)

    @property
    def whole(self) -> float:
        """The factor in one number."""
        return math.ldexp(self.factor, self.exponent)

    def shift(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """``x`` with the power of two alone applied: values of about 1."""
        return _times_power(x, self.exponent)

    def apply(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """From raw to scaled."""
        return self.shift(x) * self.factor

    def undo(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """From scaled to raw."""
        return _times_power(x / self.factor, -self.exponent)

    def over(self, other: "Scale") -> "Scale":
        """The quotient of two."""
        return Scale(self.exponent - other.exponent, self.factor / other.factor)


def _exponent(x: Float[Tensor, "token d_in"]) -> int:
    return -math.frexp(x.abs().max().item())[1]


def _times_power(x: Float[Tensor, "*any"], exponent: int) -> Float[Tensor, "*any"]:
    """``x * 2^exponent``, in two steps, since the power alone may lie beyond float32."""
    half = exponent // 2
    return x * 2.0**half * 2.0 ** (exponent - half)


def ordinary(x: Float[Tensor, "token d_in"], times: float) -> Bool[Tensor, " token"]:
    """Tokens whose norm is at most ``times`` the median norm of the batch."""
    norms = _times_power(x, _exponent(x)).norm(dim=-1)
    return norms <= times * norms.median()


def centre(x: Float[Tensor, "token d"], kind: BDecInit) -> Float[Tensor, " d"]:
    """The middle of a batch: its mean, its geometric median, or zero."""
    if kind == "zero":
        return torch.zeros_like(x[0])
    return x.mean(0) if kind == "mean" else geometric_median(x)


def geometric_median(x: Float[Tensor, "token d"], steps: int = 100, tolerance: float = 1e-6) -> Float[Tensor, " d"]:
    """The point with the least summed distance to all tokens, which outliers hardly move.

    Found by Weiszfeld's iteration, in float64, until it moves by less than ``tolerance`` of the mean distance.
    """
    points = x.double()
    middle = points.mean(0)
    for _ in range(steps):
        distances = (points - middle).norm(dim=-1)
        closeness = 1 / distances.clamp_min(1e-12 * distances.mean().item() + 1e-300)
        moved = (points * closeness.unsqueeze(-1)).sum(0) / closeness.sum()
        done = (moved - middle).norm() <= tolerance * distances.mean()
        middle = moved
        if done:
            break
    return middle.to(x.dtype)
