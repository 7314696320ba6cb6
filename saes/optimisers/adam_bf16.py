"""Adam with both running means kept in bfloat16: 4 bytes of state for each weight instead of 8.

They are rounded at random, up or down, so that they are right on average. Rounding to the nearest would freeze the mean
of squares where it changes by a thousandth a step (``adam_beta2`` 0.999): bfloat16's steps are eight times as large.
"""

import torch

from saes.optimisers.adam import LONG_STEPS, LR, adam_step
from saes.optimisers.update import State, Update
from saes.shapes import Tensor

__all__ = ["LONG_STEPS", "LR", "state", "update_"]


def state(p: Tensor) -> State:
    """The running means of the gradient and of its square."""
    return {name: torch.zeros_like(p, dtype=torch.bfloat16) for name in ("mean", "square")}


def update_(p: Tensor, grad: Tensor, state: State, update: Update, project: bool) -> None:
    """See ``Optimiser``."""
    update.kernels.adam_bf16_(p, grad, state["mean"], state["square"], adam_step(update), update.key, project)
