"""What is done to the activations of a site, and how several such things are done at once.

Every intervention at a site computes a change from the same activations; the changes are weighed by where each acts,
summed and added once, in float32, and cast back once. Because a change is added and the reconstruction never replaces
the activations, the SAE's error term stays exactly as it was, and a change of zero gives back the activations bit for
bit.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from steer.models.passes import Pass
from steer.models.site import Site
from steer.steering.window import Window


@runtime_checkable
class Intervention(Protocol):
    """Something that changes the activations of one site."""

    @property
    def site(self) -> Site:
        """Where it acts."""
        ...

    @property
    def window(self) -> Window:
        """On which tokens it acts."""
        ...

    def check(self, d_model: int) -> None:
        """Raise PlanError if it does not fit a residual stream of width ``d_model``."""
        ...

    def to(self, device: torch.device) -> "Intervention":
        """The same with its tensors on ``device``."""
        ...

    def change(self, x: Float[Tensor, "batch seq d_model"], at: Pass) -> Float[Tensor, "batch seq d_model"]:
        """What to add to ``x`` (float32)."""
        ...


def changed(
    interventions: Sequence[Intervention], x: Float[Tensor, "batch seq d_model"], at: Pass
) -> Float[Tensor, "batch seq d_model"]:
    """The activations with the changes of all interventions of a site, weighed by their windows, summed, added once.

    Their order does not matter, since all read the same activations.
    """
    exact = x.float()
    changes = [one.change(exact, at) * one.window.weights(at).unsqueeze(-1) for one in interventions]
    change = changes[0] if len(changes) == 1 else torch.stack(changes).sum(0)
    return (exact + change).to(x.dtype)
