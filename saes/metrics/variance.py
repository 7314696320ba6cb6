"""Fraction of variance unexplained: by the global definition, and by three others in use."""

from dataclasses import dataclass

import torch

from saes.metrics.block import Block
from saes.shapes import Float, Tensor

NAN = float("nan")


@dataclass(frozen=True)
class TextSums:
    """What the global FVU of a set of texts is made of, so that sets can be joined and resampled."""

    tokens: Float[Tensor, " text"]
    """Tokens of each text."""
    error: Float[Tensor, " text"]
    """Squared error, summed over its tokens."""
    squares: Float[Tensor, " text"]
    """Squared distance from a point that is the same for all texts, summed."""
    total: Float[Tensor, "text d_out"]
    """Difference from that point, summed."""

    def fvu(self, weights: Float[Tensor, "draw text"] | None = None) -> Float[Tensor, " draw"]:
        """``sum error / sum |x - mean|^2`` with the mean of all tokens, each text counted ``weights`` times.

        None: once. NaN where there is no variance.
        """
        if weights is None:
            weights = torch.ones(1, len(self.tokens), dtype=torch.float64)
        total = weights @ self.total
        variance = weights @ self.squares - total.square().sum(-1) / (weights @ self.tokens)
        return torch.where(variance > 0, (weights @ self.error) / variance, torch.full_like(variance, NAN))


@dataclass(frozen=True)
class Fvu:
    """One reconstruction's FVU by all definitions."""

    fvu: float
    per_batch: float
    per_batch_centred: float
    per_token: float
    texts: TextSums | None


class FvuSums:
    """Sums of all definitions; the global one is taken about a point near the mean, so that little cancels."""

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.near: Tensor | None = None
        self.parts: list[tuple[Tensor, TextSums]] = []
        self.placed = False
        self.of_blocks: list[tuple[float, float, float]] = []
        """Tokens, FVU and centred FVU of each block."""
        self.ratios, self.ratio_tokens = 0.0, 0

    def add(self, block: Block) -> None:
        """Count a block."""
        x = block.y.double()
        if self.near is None:
            self.near = x.mean(0)
        self._add_global(block, x - self.near)
        about_mean = (x - x.mean(0)).square().sum(-1)
        variance = about_mean.sum().item()
        residual = x - block.y_hat.double()
        centred = (residual - residual.mean(0)).square().sum().item()
        if variance > 0:
            self.of_blocks.append((len(block), block.error.sum().item() / variance, centred / variance))
        counted = about_mean > 0
        self.ratios += (block.error[counted] / about_mean[counted]).sum().item()
        self.ratio_tokens += int(counted.sum())

    def result(self) -> Fvu:
        """All definitions; of blocks only the full ones count, unless there is none."""
        sums = _joined(self.parts)
        full = [one for one in self.of_blocks if one[0] == self.block_tokens] or self.of_blocks
        return Fvu(
            fvu=sums.fvu().item(),
            per_batch=sum(one[1] for one in full) / len(full) if full else NAN,
            per_batch_centred=sum(one[2] for one in full) / len(full) if full else NAN,
            per_token=self.ratios / self.ratio_tokens if self.ratio_tokens else NAN,
            texts=sums if self.placed else None,
        )

    def _add_global(self, block: Block, x: Float[Tensor, "token d_in"]) -> None:
        self.placed = block.text is not None
        text = torch.zeros(len(x), dtype=torch.long, device=x.device) if block.text is None else block.text
        ids, place = text.unique(return_inverse=True)
        sums = [
            torch.zeros(len(ids), *rows.shape[1:], dtype=torch.float64, device=x.device).index_add_(0, place, rows)
            for rows in (torch.ones_like(block.error), block.error, x.square().sum(-1), x)
        ]
        self.parts.append((ids.cpu(), TextSums(*(one.cpu() for one in sums))))


def _joined(parts: list[tuple[Tensor, TextSums]]) -> TextSums:
    ids, place = torch.cat([one for one, _ in parts]).unique(return_inverse=True)

    def sums(name: str) -> Tensor:
        rows = torch.cat([getattr(one, name) for _, one in parts])
        return torch.zeros(len(ids), *rows.shape[1:], dtype=torch.float64).index_add_(0, place, rows)

    return TextSums(*(sums(name) for name in ("tokens", "error", "squares", "total")))
