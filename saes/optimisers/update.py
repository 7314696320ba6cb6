"""What every optimiser is told of a step, and what each must offer."""

from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

from saes.seeds import derived
from saes.shapes import Float, Tensor

State = dict[str, Tensor]
"""What an optimiser keeps of one weight, by name."""


@dataclass(frozen=True)
class Update:
    """The numbers of one step, and what works on the device."""

    kernels: ModuleType
    """See ``saes.kernels.kernels_for``."""
    lr: float
    number: int
    """Of the step, from 1."""
    clip: float | Float[Tensor, ""]
    """What the gradients are multiplied by first. A tensor spares a GPU the wait for its own result."""
    seed: int
    """Of whatever is drawn at random, together with the number of the step."""
    beta2: float
    """Share of the running mean of squares that a step keeps (Adam)."""
    weight: str = ""
    """Name of the weight that is updated."""

    @property
    def key(self) -> int:
        """A number of 32 bits that looks random, another one for each seed, step and weight."""
        return derived(self.seed, "rounding", self.number, self.weight) % 2**32


class Optimiser(Protocol):
    """A module of ``saes.optimisers``."""

    LR: float
    """Peak learning rate for 2^14 latents in a long run, where none is given."""
    LONG_STEPS: int
    """Steps from which a run is long; a shorter one takes a higher rate (``saes.schedule.default_lr``)."""

    def state(self, p: Tensor) -> State:
        """What is kept of a weight, before the first step."""
        ...

    def update_(self, p: Tensor, grad: Tensor, state: State, update: Update, project: bool) -> None:
        """One step in place on a contiguous weight and its state.

        With ``project``, the part of each row's gradient along the row is taken away first, and each row has norm 1
        afterwards (arXiv 2406.04093, appendix A.1).
        """
        ...
