"""How many latents are active on a token, how often each is, and how that is distributed."""

from dataclasses import dataclass

import torch

from saes.metrics.block import Block
from saes.shapes import Float, Int, Tensor

LOG_EDGES = tuple(-8 + number / 4 for number in range(33))
"""Edges of the bins of ``DensityHistogram``: log10 of the density, from 1e-8 to 1, four bins for each factor of ten."""


@dataclass(frozen=True)
class DensityHistogram:
    """How many latents are active how often. The bins are fixed, so that histograms can be laid beside each other."""

    log10_edges: tuple[float, ...]
    """Edges of the bins, in log10 of the share of tokens; a bin holds its lower edge, the last one both."""
    latents: tuple[int, ...]
    """Latents in each bin; those below the lowest edge are in the first."""
    never: int
    """Latents that never fired; they are in no bin."""
    below: dict[str, int]
    """Latents that are active on less than a share of the tokens, by that share, those that never fire included."""
    above: dict[str, int]
    """Latents that are active on more than a share of the tokens."""


@dataclass(frozen=True)
class Firing:
    """How often and how strongly each latent fires."""

    density: Float[Tensor, " d_sae"]
    """Share of the tokens on which the latent is active."""
    maximum: Float[Tensor, " d_sae"]
    """Its largest activation."""
    counts: Int[Tensor, " d_sae"]
    """Tokens on which it is active."""
    tokens: int
    """Tokens of all."""

    def histogram(self) -> DensityHistogram:
        """Densities in fixed bins of log10."""
        fired = self.counts[self.counts > 0].double() / self.tokens
        edges = torch.tensor(LOG_EDGES, dtype=torch.float64)
        bins = (torch.bucketize(fired.log10(), edges, right=True) - 1).clamp(0, len(edges) - 2)
        share = self.counts.double() / self.tokens
        return DensityHistogram(
            log10_edges=LOG_EDGES,
            latents=tuple(torch.bincount(bins, minlength=len(edges) - 1).tolist()),
            never=int((self.counts == 0).sum()),
            below={f"{limit:.0e}": int((share < limit).sum()) for limit in (1e-5, 1e-6, 1e-7)},
            above={f"{limit:.0e}": int((share > limit).sum()) for limit in (1e-1, 1e-2)},
        )


class SparsitySums:
    """Counts of active latents by token and by latent."""

    def __init__(self, d_sae: int, device: torch.device) -> None:
        self.tokens, self.l1 = 0, 0.0
        self.counts = torch.zeros(d_sae, dtype=torch.long, device=device)
        self.maximum = torch.zeros(d_sae, device=device)
        self.l0_counts = torch.zeros(1, dtype=torch.long, device=device)

    def add(self, block: Block) -> None:
        """Count a block."""
        indices, values = block.codes.indices, block.codes.values
        active = values > 0
        self.tokens += len(block)
        self.l1 += values.double().sum().item()
        self.counts += torch.bincount(indices[active], minlength=len(self.counts))
        self.maximum.scatter_reduce_(0, indices.flatten(), values.float().flatten(), "amax")
        found = torch.bincount(active.sum(-1), minlength=len(self.l0_counts))
        found[: len(self.l0_counts)] += self.l0_counts
        self.l0_counts = found

    def firing(self) -> Firing:
        """What is known of each latent."""
        counts = self.counts.cpu()
        return Firing((counts.double() / self.tokens).float(), self.maximum.cpu(), counts, self.tokens)
