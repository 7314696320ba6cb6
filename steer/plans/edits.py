"""Edits as data: what is done to latents and along directions."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, model_serializer, model_validator

from steer.errors import PlanError
from steer.plans.conditions import GateSpec, WindowSpec
from steer.plans.part import Name, Number, Part, SiteName, Whole
from steer.steering.direction_edits import DirectionOperation, Unit
from steer.steering.latents import ErrorTerm, Membership
from steer.steering.operations import Operation


class LatentEditSpec(Part):
    """An operation on latents: ``LatentEdit``."""

    kind: Literal["latents"]
    sae: Name
    """Name of the SAE in the plan."""
    values: Annotated[dict[Whole, Number], Field(min_length=1)]
    """The value of each latent."""
    operation: Operation = "set"
    unit: Literal["raw", "max_activation", "residual_norm"] = "raw"
    """Of the values: raw activation units, multiples of each latent's largest activation, or fractions of the norm."""
    maxima: dict[Whole, Number] | None = None
    """Largest activation of each latent, in raw units; with ``max_activation``, and only then."""
    site: SiteName | None = None
    """Where it acts; absent: where the plan, or the SAE itself, says that the SAE reads."""
    membership: Membership = "allow"
    error: ErrorTerm = "keep"
    window: WindowSpec = WindowSpec()
    gate: GateSpec | None = None

    def __init__(self, /, **data: object) -> None:
        given = dict(data)
        for name in ("values", "maxima"):  # JSON and TOML have texts for keys
            if isinstance(mapping := given.get(name), dict):
                given[name] = by_latent = {_latent(key): value for key, value in mapping.items()}
                if len(by_latent) < len(mapping):
                    raise PlanError(f"{name}: a latent stands twice, in keys such as '3' and '03'. Give it once.")
        super().__init__(**given)

    @model_validator(mode="after")
    def _consistent(self) -> "LatentEditSpec":
        if (self.unit == "max_activation") != (self.maxima is not None):
            raise PlanError("unit max_activation, and no other, needs maxima: the largest activation of each latent.")
        if missing := [latent for latent in self.values if self.maxima is not None and latent not in self.maxima]:
            raise PlanError(f"maxima lacks latent {missing[0]}.")
        if low := [latent for latent, largest in (self.maxima or {}).items() if largest <= 0]:
            raise PlanError(f"The largest activation of latent {low[0]} must be above 0.")
        if self.unit == "residual_norm" and self.operation == "scale":
            raise PlanError("The values of scale are factors without a unit: leave unit out.")
        return self


class DirectionEditSpec(Part):
    """An operation along a direction: ``DirectionEdit``."""

    kind: Literal["direction"]
    site: SiteName
    direction: Name
    """Name of a vector of the plan."""
    strength: Number = 0.0
    """The operation's c; for ``rotate`` an angle in degrees. ``project_out`` has none."""
    operation: DirectionOperation = "add"
    unit: Unit = "raw"
    """Of the strength: units of the residual stream, or multiples of each token's norm."""
    second: Name | None = None
    """For ``rotate``: name of the vector that spans the plane besides the direction."""
    window: WindowSpec = WindowSpec()
    gate: GateSpec | None = None

    @model_validator(mode="after")
    def _has_strength(self) -> "DirectionEditSpec":
        if self.operation != "project_out" and "strength" not in self.model_fields_set:
            raise PlanError(f"{self.operation} needs a strength.")
        return self

    @model_serializer(mode="wrap")
    def _told(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        data = handler(self)
        # what stands at its default is left out, but a strength of 0 must be read again where one is needed
        return data if self.operation == "project_out" else {**data, "strength": self.strength}


class NullSpaceEditSpec(Part):
    """A linear map that benign activations hardly feel: ``NullSpaceEdit``."""

    kind: Literal["null_space"]
    site: SiteName
    matrix: Name
    """Name of a matrix among the vectors of the plan."""
    strength: Number = 1.0
    window: WindowSpec = WindowSpec(phase="prompt")
    gate: GateSpec | None = None


EditSpec = Annotated[LatentEditSpec | DirectionEditSpec | NullSpaceEditSpec, Field(discriminator="kind")]


def _latent(key: object) -> object:
    """A latent as a number, where it is written as one."""
    return int(key) if isinstance(key, str) and key.isascii() and key.isdigit() else key
