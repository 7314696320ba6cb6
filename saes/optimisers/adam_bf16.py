"""Adam with both running means kept in bfloat16: 4 bytes of state for each weight instead of 8.

They are rounded at random, up or down, so that they are right on average. Rounding to the nearest would freeze the mean
of squares where it changes by a thousandth a step (``adam_beta2`` 0.999): bfloat16's steps are eight times as large.
"""

import torch

from saes.optimisers.adam import LONG_STEPS, LR, adam_step
from saes.optimisers.update import State, Update
from saes.shapes import Tensor

__all__ = ["LONG_STEPS", "LR", "state", "update_"]

CHUNK_ELEMENTS = 2**22  # that are float32 at a time


def state(p: Tensor) -> State:
    """The running means of the gradient and of its square."""
    return {name: torch.zeros_like(p, dtype=torch.bfloat16) for name in ("mean", "square")}


def update_(p: Tensor, grad: Tensor, state: State, update: Update, project: bool) -> None:
    """See ``Optimiser``."""
    generator = torch.Generator(p.device).manual_seed((update.seed * 2**32 + update.number) % 2**63)
    rows = max(1, CHUNK_ELEMENTS // max(1, p[0].numel()))
    parts = zip(p.split(rows), grad.split(rows), state["mean"].split(rows), state["square"].split(rows), strict=True)
    for weight, slope, mean, square in parts:
        mean_32, square_32 = mean.float(), square.float()
        update.kernels.adam_(weight, slope, mean_32, square_32, adam_step(update), project)
        noise = torch.randint(-(2**31), 2**31, weight.shape, generator=generator, device=p.device, dtype=torch.int32)
        mean.copy_(rounded(mean_32, noise))
        square.copy_(rounded(square_32, noise >> 16))


def rounded(x: Tensor, noise: Tensor) -> Tensor:
    """float32 to one of the two nearest bfloat16, the nearer one more often, so that the mean is ``x``.

    A bfloat16 is a float32 without its lower 16 bits: adding 16 random bits carries over just as often. ``noise`` is
    int32, and its lower 16 bits are taken.
    """
    bits = x.view(torch.int32) + (noise & (2**16 - 1))
    return (bits & -(2**16)).view(torch.float32).to(torch.bfloat16)
