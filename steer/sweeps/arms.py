"""The arms of a study as data: what is done at a strength, and what it is told apart by."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saes import SAE
from steer.models.chat import Conversation, Message
from steer.steering.direction_edits import DirectionEdit, DirectionOperation, Unit
from steer.steering.intervention import Intervention
from steer.steering.latents import ErrorTerm, LatentEdit, Membership
from steer.steering.operations import Operation
from steer.steering.window import EVERYWHERE, Window
from steer.sweeps.config import WITHOUT_VALUE

Role = Literal["unsteered", "arm", "control"]
UNSTEERED = "unsteered"


@dataclass(frozen=True)
class LatentArm:
    """An operation on latents of the study's SAE. At strength s latent i has the value ``s * weights[i]``."""

    latents: tuple[int, ...]
    weights: tuple[float, ...]
    """By which the strength is multiplied, to raw units."""
    site: str
    operation: Operation = "set"
    membership: Membership = "allow"
    error: ErrorTerm = "keep"
    window: Window = EVERYWHERE

    def at(self, strength: float, sae: SAE | None) -> tuple[Intervention, ...]:
        """The interventions at a strength."""
        assert sae is not None, "a study with latents has an SAE"
        values = {one: strength * weight for one, weight in zip(self.latents, self.weights, strict=True)}
        edit = LatentEdit(
            sae, values, self.site, self.operation, self.window, membership=self.membership, error=self.error
        )
        return (edit,)

    def settings(self, sae_digest: str | None) -> dict[str, Any]:
        """Everything but the strength that decides what is done, as JSON data."""
        return {"kind": "latents", "sae": sae_digest, **_fields(self)}


@dataclass(frozen=True, eq=False)
class DirectionArm:
    """An operation along a direction of the residual stream. The strength is multiplied by ``weight``."""

    direction: Float[Tensor, " d_model"]
    source: Mapping[str, Any]
    """What tells it apart: the digest of a file's vector, or the prompts that it was taken from."""
    weight: float
    site: str
    operation: DirectionOperation = "add"
    unit: Unit = "raw"
    window: Window = EVERYWHERE

    def at(self, strength: float, sae: SAE | None) -> tuple[Intervention, ...]:
        """The interventions at a strength."""
        edit = DirectionEdit(self.site, self.direction, strength * self.weight, self.operation, self.unit, self.window)
        return (edit,)

    def settings(self, sae_digest: str | None) -> dict[str, Any]:
        """Everything but the strength that decides what is done, as JSON data."""
        return {"kind": "direction", **_fields(self)}


Doing = LatentArm | DirectionArm


@dataclass(frozen=True, eq=False)
class Arm:
    """A way of steering, or of leaving alone, at several strengths."""

    name: str
    role: Role
    strengths: tuple[float, ...]
    doing: Doing | None = None
    """What is done to the activations; None: nothing."""
    system: str | None = None
    """A system prompt before every conversation."""
    beside: str | None = None
    """Of a control: the arm whose strengths it has."""
    note: str = ""
    """How it was chosen, where the study does not say."""

    def at(self, strength: float, sae: SAE | None) -> tuple[Intervention, ...]:
        """The interventions at a strength."""
        return () if self.doing is None else self.doing.at(strength, sae)

    def settings(self, strength: float, sae_digest: str | None) -> dict[str, Any]:
        """Everything that decides what is done at a strength, as JSON data."""
        if self.doing is None:
            return {"system": self.system, "steering": None}
        return {"system": self.system, "steering": self.doing.settings(sae_digest), "strength": strength}

    @property
    def graded(self) -> bool:
        """Whether its strengths are more than a name."""
        return self.doing is not None and self.doing.operation not in WITHOUT_VALUE

    def conversation(self, messages: Conversation) -> list[Message]:
        """A prompt with the system prompt before it; one that a conversation has already follows it."""
        if self.system is None:
            return list(messages)
        first, *rest = messages
        if first["role"] != "system":
            return [Message(role="system", content=self.system), *messages]
        return [Message(role="system", content=f"{self.system}\n\n{first['content']}"), *rest]


def _fields(one: Doing) -> dict[str, Any]:
    """The fields as JSON data."""

    def plain(value: Any) -> Any:
        if isinstance(value, Window):
            return {**asdict(value), "exclude_ids": sorted(value.exclude_ids)}
        return list(value) if isinstance(value, tuple) else value

    return {name: plain(value) for name, value in vars(one).items() if not isinstance(value, torch.Tensor)}
