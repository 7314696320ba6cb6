"""What one batch says of the weights: the losses, and their gradients, before an optimiser sees them."""

from dataclasses import dataclass

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
    least: float | None = None
    """The least value that ``batch_topk`` kept."""
    squares: Float[Tensor, " d_sae"] | None = None
    """Sum of squares of each latent's row of ``W_dec`` and of ``W_enc``, where it is known."""
