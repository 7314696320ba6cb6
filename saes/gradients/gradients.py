"""What one batch says of the weights: the losses, and their gradients, before an optimiser sees them."""

from dataclasses import dataclass

import torch

from saes.distributed.world import World
from saes.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True)
class StepFacts:
    """What a step tells. The numbers lie on the device: to read one is to wait until a GPU has computed it."""

    values: Float[Tensor, "4"]
    """In float64: ``fvu``, ``loss``, ``l0``, ``variance``."""

    @property
    def fvu(self) -> float:
        """Fraction of variance unexplained of the batch, before the step."""
        return self.values[0].item()

    @property
    def loss(self) -> float:
        """All losses together, by their weights."""
        return self.values[1].item()

    @property
    def l0(self) -> float:
        """Mean number of active latents."""
        return self.values[2].item()

    @property
    def variance(self) -> float:
        """Sum of squares around the mean of the batch; of 0 nothing can be learnt."""
        return self.values[3].item()

    def with_loss(self, loss: Float[Tensor, ""]) -> "StepFacts":
        """The same with another loss."""
        fvu, _, l0, variance = self.values.unbind()
        return StepFacts(torch.stack([fvu, loss, l0, variance]))


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
    least: Float[Tensor, ""] | None = None
    """The least value that ``batch_topk`` kept, infinite if it kept none."""
    squares: Float[Tensor, " d_sae"] | None = None
    """Sum of squares of each latent's row of ``W_dec`` and of ``W_enc``, where it is known."""


def facts_of_all(
    world: World,
    fvu: Float[Tensor, ""],
    loss: Float[Tensor, ""],
    active: Int[Tensor, ""],
    tokens: int,
    variance: Float[Tensor, ""],
) -> StepFacts:
    """What a step tells of the whole batch.

    Losses are summed over the ranks that share its tokens, the number of active latents over all ranks; the variance
    is that of the whole batch already.
    """
    sums = torch.stack([one.double() for one in (fvu, loss, active)])
    if world.latents.rank:  # ranks that share the latents have computed the same losses: the first of them tells
        sums[:2].zero_()
    fvu, loss, active = world.all.sum_(sums).unbind()
    return StepFacts(torch.stack([fvu, loss, active / tokens, variance.double()]))
