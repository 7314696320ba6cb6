"""One training step: gradients of a batch, their sum over ranks, clipping, the optimiser, the counters."""

import dataclasses
import math

import torch

from saes.distributed.reduce import gradient_norm, summed
from saes.gradients import Gradients, StepFacts, gradients
from saes.kernels import kernels_for
from saes.losses import require_variance
from saes.optimisers import OPTIMISERS, Update
from saes.shapes import Float, Tensor
from saes.training import Training, weights

__all__ = ["StepFacts", "Training", "step"]


@torch.no_grad()
def step(
    training: Training,
    x: Float[Tensor, "token d_in"],
    lr: float,
    target: Float[Tensor, "token d_out"] | None = None,
) -> StepFacts:
    """Train on one batch; weights, moments and counters are changed in place.

    ``target`` is what the SAE shall write; None: ``x`` itself. A loss that is not finite is returned as it is, also
    where it is the gradient that is not, and then nothing has been changed.

    Not to keep a GPU waiting, its CPU looks only at steps where ``training.looks``. A loss that is not finite at
    another step is taken, and every loss from there on is NaN, so that the next look finds it.

    Raises:
        ShapeError: all that it shall write is equal.
    """
    made = summed(training, gradients(training, x, x if target is None else target))
    norm = gradient_norm(training, made)
    loss = torch.where(norm < math.inf, made.facts.values[1], math.nan) + training.ill
    facts = made.facts.with_loss(loss)
    if training.looks:
        require_variance(facts.variance)
        if not facts.loss < math.inf:
            return facts
    update(training, made, norm, lr)
    training.count(made.tokens, made.fired, made.least)
    training.ill = torch.where(loss < math.inf, 0.0, math.nan).to(loss)
    return facts


def update(training: Training, made: Gradients, norm: Float[Tensor, ""], lr: float) -> None:
    """Let the optimiser change the weights, with the gradient clipped to the norm that the config says."""
    sae, config = training.sae, training.config
    optimiser = OPTIMISERS[config.optimiser]
    clip = (config.grad_clip / (norm + 1e-6)).clamp_max(1.0)
    told = Update(kernels_for(sae.W_dec.device), lr, training.steps_done + 1, clip, config.seed, training.beta2)
    for name, weight in weights(sae).items():
        of = dataclasses.replace(told, weight=name)
        optimiser.update_(weight, made.of[name], training.moments[name], of, project=name == "W_dec")
    if "threshold" in made.of:
        sae.threshold.clamp_(min=0)  # pre-activations come after the ReLU
