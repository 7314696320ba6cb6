"""What one batch says of the weights: the losses, and their gradients, before an optimiser sees them."""

from dataclasses import dataclass

import torch

from saes.distributed.world import World
from saes.shapes import Bool, Float, Tensor


@dataclass(frozen=True)
class StepFacts:
    """What a step tells."""

    fvu: float
    """Fraction of variance unexplained of the batch, before the step."""
    loss: float
    """All losses together, by their weights."""
    l0: float
    """Mean number of active latents."""


@dataclass(frozen=True)
class Gradients:
    """Of the loss of one batch, with respect to each weight."""

    facts: StepFacts
    of: dict[str, Tensor]
    """By the weight's name, in the layout of ``saes.training.weights``."""
    radial: Float[Tensor, " d_sae"]
    """The part of the decoder's gradient along its rows, which the projection takes away."""
    fired: Bool[Tensor, " d_sae"]
    """Latents that were active on a token."""
    tokens: int
    """Of the whole batch, on all ranks."""
    least: float | None = None
    """The least value that ``batch_topk`` kept."""
    squares: Float[Tensor, " d_sae"] | None = None
    """Sum of squares of each latent's row of ``W_dec`` and of ``W_enc``, where it is known."""


def facts_of_all(world: World, fvu: float, loss: float, active: float, tokens: int) -> StepFacts:
    """What a step tells of the whole batch.

    Losses are summed over the ranks that share its tokens, the number of active latents over all ranks.
    """
    if not world.all.alone:
        # ranks that share the latents have computed the same losses: the first of them tells
        sums = torch.tensor([fvu, loss, active], dtype=torch.float64) * torch.tensor(
            [*[world.latents.rank == 0] * 2, 1]
        )
        fvu, loss, active = world.all.sum_(sums).tolist()
    return StepFacts(fvu, loss, active / tokens)
