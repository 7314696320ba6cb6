"""What is done to activations before an SAE is trained on them, and undone in its weights afterwards."""

import math
from dataclasses import dataclass

from saes.config import BDecInit
from saes.distributed.group import ALONE, Group
from saes.errors import ShapeError
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
    def of(cls, x: Float[Tensor, "token d_in"], ranks: Group = ALONE) -> "Scale":
        """The scale that gives ``x``, with the tokens of the other ranks, a mean norm of sqrt(d_in).

        Raises:
            ShapeError: all are zero.
        """
        exponent = _exponent(x, ranks)
        norm = mean(_times_power(x, exponent).norm(dim=-1), ranks).item()
        if not norm:
            raise ShapeError("All activations of a batch are zero, so there is nothing to learn: check the site.")
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


def mean(x: Float[Tensor, " token *any"], ranks: Group = ALONE) -> Float[Tensor, "*any"]:
    """The mean over the tokens of all ranks."""
    if ranks.alone:
        return x.mean(0)
    return (ranks.sum_(x.double().sum(0)) / ranks.total(len(x))).to(x.dtype)


def _exponent(x: Float[Tensor, "token d_in"], ranks: Group) -> int:
    return -math.frexp(ranks.largest(x.abs().max().item() if len(x) else 0.0))[1]


def _times_power(x: Float[Tensor, "*any"], exponent: int) -> Float[Tensor, "*any"]:
    """``x * 2^exponent``, in two steps, since the power alone may lie beyond float32."""
    half = exponent // 2
    return x * 2.0**half * 2.0 ** (exponent - half)


def ordinary(x: Float[Tensor, "token d_in"], times: float, ranks: Group = ALONE) -> Bool[Tensor, " token"]:
    """Tokens whose norm is at most ``times`` the median norm of the batch, of which every rank has equally many."""
    norms = _times_power(x, _exponent(x, ranks)).norm(dim=-1)
    return norms <= times * ranks.gather(norms).median()


def centre(x: Float[Tensor, "token d"], kind: BDecInit, ranks: Group = ALONE) -> Float[Tensor, " d"]:
    """The middle of a batch, of all ranks' tokens: its mean, its geometric median, or zero."""
    if kind == "zero":
        return x.new_zeros(x.shape[1])
    return mean(x, ranks) if kind == "mean" else geometric_median(x, ranks=ranks)


def geometric_median(
    x: Float[Tensor, "token d"], steps: int = 100, tolerance: float = 1e-6, ranks: Group = ALONE
) -> Float[Tensor, " d"]:
    """The point with the least summed distance to all tokens, which outliers hardly move.

    Found by Weiszfeld's iteration, in float64, until it moves by less than ``tolerance`` of the mean distance.
    """
    points = x.double()
    middle = mean(points, ranks)
    for _ in range(steps):
        distances = (points - middle).norm(dim=-1)
        usual = mean(distances, ranks).item()
        closeness = 1 / distances.clamp_min(1e-12 * usual + 1e-300)
        moved = ranks.sum_((points * closeness.unsqueeze(-1)).sum(0)) / ranks.total(closeness.sum().item())
        done = (moved - middle).norm() <= tolerance * usual
        middle = moved
        if done:
            break
    return middle.to(x.dtype)
