"""Signum (Bernstein et al., arXiv 1802.04434, algorithm 2): steps along the signs of a running mean.

4 bytes of state for each weight. A row without any gradient rests: its latent was active on no token, and the sign of
what is left of its mean would move it as far as ever.
"""

import torch

from saes.optimisers.update import State, Update
from saes.shapes import Tensor

LR = 5e-3  # that of EleutherAI's sparsify for its SignSGD
LONG_STEPS = 1
BETA = 0.9


def state(p: Tensor) -> State:
    """The running mean of the gradient."""
    return {"mean": torch.zeros_like(p)}


def update_(p: Tensor, grad: Tensor, state: State, update: Update, project: bool) -> None:
    """See ``Optimiser``."""
    if project:
        grad = grad - (grad * p).sum(-1, keepdim=True) * p
    moving = (grad != 0).any(-1, keepdim=True) if grad.ndim == 2 else grad != 0
    mean = state["mean"].lerp(grad * update.clip, 1 - BETA)
    state["mean"].copy_(torch.where(moving, mean, state["mean"]))
    p.sub_(update.lr * mean.sign() * moving)
    if project:
        p.div_(p.norm(dim=-1, keepdim=True).clamp_min(1e-12))
