"""Gradients of the training losses: sparse ones by hand where k says how many latents are active, else autograd's."""

from saes.gradients.dense import dense_gradients
from saes.gradients.gradients import Gradients, StepFacts
from saes.gradients.sparse import sparse_gradients
from saes.shapes import Float, Tensor
from saes.training import Training

__all__ = ["Gradients", "StepFacts", "gradients"]


def gradients(training: Training, x: Float[Tensor, "token d_in"], target: Float[Tensor, "token d_out"]) -> Gradients:
    """The losses of a batch and their gradients; nothing is changed but memory that lasts from step to step.

    Where the loss is not finite, or all of ``target`` is equal (``facts.variance`` is 0), the gradients mean nothing.
    """
    counted = training.sae.config.activation in ("topk", "batch_topk")
    return (sparse_gradients if counted else dense_gradients)(training, x, target)
