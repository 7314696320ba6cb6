"""Norms by position in the text: where reconstructions are too short, or activations unlike all others."""

from dataclasses import dataclass

import torch

from saes.metrics.block import Block


@dataclass(frozen=True)
class PositionNorms:
    """Mean norms by position in the text, from position 0 on; NaN where no token was."""

    tokens: tuple[int, ...]
    """Tokens at each position."""
    input: tuple[float, ...]
    """Mean norm of the activations: those that are to be reconstructed."""
    reconstruction: tuple[float, ...]
    """Mean norm of their reconstructions."""
    error: tuple[float, ...]
    """Mean norm of the difference."""


class PositionSums:
    """Sums by position, as far as positions are given."""

    def __init__(self) -> None:
        self.sums = torch.zeros(4, 0, dtype=torch.float64)

    def add(self, block: Block) -> None:
        """Count a block; one without positions is passed over."""
        if block.position is None:
            return
        norms = [torch.ones_like(block.error), *(x.double().norm(dim=-1) for x in (block.y, block.y_hat))]
        rows = torch.stack([*norms, block.error.sqrt()]).cpu()
        position = block.position.cpu()
        size = max(self.sums.shape[1], int(position.max()) + 1)
        sums = torch.zeros(4, size, dtype=torch.float64).index_add_(1, position, rows)
        sums[:, : self.sums.shape[1]] += self.sums
        self.sums = sums

    def result(self) -> PositionNorms | None:
        """The means; None if no block had positions."""
        if not self.sums.shape[1]:
            return None
        tokens = self.sums[0]
        means = (self.sums[1:] / tokens).tolist()  # 0 / 0 is NaN
        return PositionNorms(tuple(map(int, tokens.tolist())), *map(tuple, means))
