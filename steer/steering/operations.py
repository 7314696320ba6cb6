"""What an edit makes of a latent's activation: its target, by the name of the operation.

The words are those of ``x' = x + mask * (target(a) - a) * g(x) * W_dec[latent]``, with a the activation that the SAE
gives and c the value asked for. Systems that say "clamp" mean several of these; here ``set`` is what a clamp does.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Operation = Literal["set", "set_if_active", "at_least", "at_most", "scale", "add", "ablate"]
Target = Callable[[Float[Tensor, "*token n"], Float[Tensor, "*token n"]], Float[Tensor, "*token n"]]


def set_(now: Tensor, value: Tensor) -> Tensor:
    """c, whether the latent is active or not (arXiv 2411.11296)."""
    return value.expand_as(now)


def set_if_active(now: Tensor, value: Tensor) -> Tensor:
    """C where the latent is active; a silent one stays silent (as for unlearning, arXiv 2410.19278)."""
    return torch.where(now > 0, value, now)


def at_least(now: Tensor, value: Tensor) -> Tensor:
    """The larger of a and c."""
    return torch.maximum(now, value)


def at_most(now: Tensor, value: Tensor) -> Tensor:
    """The smaller of a and c."""
    return torch.minimum(now, value)


def scale(now: Tensor, value: Tensor) -> Tensor:
    """C times a; a silent latent stays silent."""
    return now * value


def add(now: Tensor, value: Tensor) -> Tensor:
    """A + c, also where the latent is silent: a multiple of its decoder row is added everywhere."""
    return now + value


def ablate(now: Tensor, value: Tensor) -> Tensor:
    """0, whatever the value."""
    return torch.zeros_like(now)


TARGETS: dict[Operation, Target] = {
    "set": set_,
    "set_if_active": set_if_active,
    "at_least": at_least,
    "at_most": at_most,
    "scale": scale,
    "add": add,
    "ablate": ablate,
}
