"""Gates made of gates: open where all of them are, or where any of them is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from steer.errors import PlanError
from steer.steering.gates import AnyGate


@dataclass(frozen=True, eq=False)
class _Several:
    """Several gates. They may read at different sites, and decide for the reply or at each token."""

    gates: Sequence[AnyGate]

    def __post_init__(self) -> None:
        if isinstance(self.gates, AnyGate) or not self.gates:
            raise PlanError(f"{type(self).__name__} needs a list of at least one gate, got {self.gates!r}.")
        if strange := [one for one in self.gates if isinstance(one, type) or not isinstance(one, AnyGate)]:
            raise PlanError(f"A gate is a Gate, TextGate, AllOf or AnyOf, got {type(strange[0]).__name__}.")
        object.__setattr__(self, "gates", tuple(self.gates))

    @property
    def leaves(self) -> tuple[AnyGate, ...]:
        """The gates that decide each for itself."""
        return tuple(leaf for gate in self.gates for leaf in gate.leaves)

    def check(self, d_model: int) -> None:
        """Raise PlanError if one does not fit a residual stream of width ``d_model``."""
        for gate in self.gates:
            gate.check(d_model)

    def _decisions(self, opened: Sequence[Bool[Tensor, "batch _"]]) -> Bool[Tensor, "gate batch _"]:
        """What each of the gates decides; those that decide for the row have their decision at each token."""
        rest, found = list(opened), []
        for gate in self.gates:
            count = len(gate.leaves)
            found.append(gate.decision(rest[:count]))
            rest = rest[count:]
        return torch.stack(torch.broadcast_tensors(*found))


@dataclass(frozen=True, eq=False)
class AllOf(_Several):
    """Open where all of its gates are."""

    def decision(self, opened: Sequence[Bool[Tensor, "batch _"]]) -> Bool[Tensor, "batch _"]:
        """Whether all are open."""
        return self._decisions(opened).all(0)

    def to(self, device: torch.device) -> "AllOf":
        """The same with its tensors on ``device``."""
        return replace(self, gates=[gate.to(device) for gate in self.gates])


@dataclass(frozen=True, eq=False)
class AnyOf(_Several):
    """Open where at least one of its gates is."""

    def decision(self, opened: Sequence[Bool[Tensor, "batch _"]]) -> Bool[Tensor, "batch _"]:
        """Whether any is open."""
        return self._decisions(opened).any(0)

    def to(self, device: torch.device) -> "AnyOf":
        """The same with its tensors on ``device``."""
        return replace(self, gates=[gate.to(device) for gate in self.gates])
