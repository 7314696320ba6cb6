"""How alike a reconstruction is to its input, token by token: direction, length, bias."""

import math
from dataclasses import dataclass

from saes.metrics.block import Block


@dataclass(frozen=True)
class Likeness:
    """Means over tokens."""

    cosine: float
    relative_norm: float
    reconstruction_bias: float


class LikenessSums:
    """Sums over tokens; the cosine with a vector of length zero counts as 0."""

    def __init__(self) -> None:
        self.tokens = self.measurable = 0
        self.cosine = self.ratio = self.squares = self.products = 0.0

    def add(self, block: Block) -> None:
        """Count a block."""
        x, x_hat = block.y.double(), block.y_hat.double()
        length, length_hat, product = x.norm(dim=-1), x_hat.norm(dim=-1), (x * x_hat).sum(-1)
        both, long = (length > 0) & (length_hat > 0), length > 0
        self.tokens += len(block)
        self.measurable += int(long.sum())
        self.cosine += (product[both] / (length[both] * length_hat[both])).sum().item()
        self.ratio += (length_hat[long] / length[long]).sum().item()
        self.squares += x_hat.square().sum().item()
        self.products += product.sum().item()

    def result(self) -> Likeness:
        """The means; NaN where nothing can be divided by."""
        return Likeness(
            cosine=self.cosine / self.tokens,
            relative_norm=self.ratio / self.measurable if self.measurable else math.nan,
            reconstruction_bias=self.squares / self.products if self.products else math.nan,
        )
