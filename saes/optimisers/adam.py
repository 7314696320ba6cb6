"""Adam (Kingma & Ba, arXiv 1412.6980, algorithm 1), one fused kernel: 8 bytes of state for each weight."""

import torch

from saes.kernels.eager import AdamStep
from saes.optimisers.update import State, Update
from saes.shapes import Tensor

LR = 2e-4  # arXiv 2406.04093, section 3
LONG_STEPS = 100_000
BETA1, EPS = 0.9, 1e-8


def state(p: Tensor) -> State:
    """The running means of the gradient and of its square."""
    return {"mean": torch.zeros_like(p), "square": torch.zeros_like(p)}


def update_(p: Tensor, grad: Tensor, state: State, update: Update, project: bool) -> None:
    """See ``Optimiser``."""
    update.kernels.adam_(p, grad, state["mean"], state["square"], adam_step(update), project)


def adam_step(update: Update) -> AdamStep:
    """The numbers of the step as the kernel takes them."""
    return AdamStep(update.lr, BETA1, update.beta2, EPS, update.number, update.clip)
