"""Adam with both running means of a matrix in 8 bits (after Dettmers et al., arXiv 2110.02861): 2.03 bytes a weight.

Blocks of 256 neighbours in a row share a scale, so that one large gradient costs no other block its precision. The
codes lie closer near zero, and are rounded at random, so that they are right on average: the mean of squares changes
by a thousandth a step, which rounding to the nearest would lose. Vectors, of which there are few, keep float32.
"""

import torch

from saes.kernels.eager_adam import blocks_of
from saes.optimisers.adam import LONG_STEPS, LR, adam_step
from saes.optimisers.adam import state as float_state
from saes.optimisers.adam import update_ as float_update_
from saes.optimisers.update import State, Update
from saes.shapes import Tensor

__all__ = ["LONG_STEPS", "LR", "state", "update_"]


def state(p: Tensor) -> State:
    """The running means of the gradient and of its square, as codes and what they are multiples of."""
    if p.ndim < 2:
        return float_state(p)
    scales = {name: p.new_zeros(len(p), blocks_of(p.shape[1])) for name in ("mean_scale", "square_scale")}
    codes = {"mean": torch.int8, "square": torch.uint8}
    return {name: torch.zeros_like(p, dtype=dtype) for name, dtype in codes.items()} | scales


def update_(p: Tensor, grad: Tensor, state: State, update: Update, project: bool) -> None:
    """See ``Optimiser``."""
    if p.ndim < 2:
        float_update_(p, grad, state, update, project)
        return
    scales = (state["mean_scale"], state["square_scale"])
    update.kernels.adam_8bit_(p, grad, state["mean"], state["square"], scales, adam_step(update), update.key, project)
