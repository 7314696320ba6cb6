"""Windows and gates as data: when and where an edit acts."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from steer.errors import PlanError
from steer.plans.part import Flag, Name, Number, Part, SiteName, Text, Whole
from steer.steering.gates import Decided, Pool
from steer.steering.pooled_probe import LatentPool
from steer.steering.window import Phase, Window

MOST_NESTED = 32  # gates within gates
AsSet = AfterValidator(lambda values: values and tuple(sorted(set(values))))
"""Neither order nor repetition matter."""


class WindowSpec(Part):
    """On which tokens: the fields of ``Window``."""

    phase: Phase = "all"
    """``prompt``, ``generated``, both (``all``), or the prompt's ``last`` token."""
    start: Whole = 0
    """First token, counted from the beginning of the phase (of the prompt for ``all``)."""
    stop: Whole | None = None
    """The token after the last one; absent: to the end."""
    first_token: Flag = False
    """Whether to act on the first token of a row too."""
    exclude_ids: Annotated[tuple[Whole, ...], AsSet] = ()
    """Token ids to leave alone."""
    decay: Number = 1.0
    """Factor by which the effect shrinks with each generated token."""
    roles: Annotated[tuple[Name, ...] | None, AsSet] = None
    """Whose words to act on; absent: all tokens."""
    template: Flag = True
    """Whether to act on the tokens that the chat template adds."""

    @model_validator(mode="after")
    def _holds_tokens(self) -> "WindowSpec":
        self.window()
        return self

    def window(self) -> Window:
        """The window.

        Raises:
            PlanError: no token can ever be in it, or a field is not of its kind.
        """
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        roles = None if self.roles is None else frozenset(self.roles)
        return Window(**{**fields, "exclude_ids": frozenset(self.exclude_ids), "roles": roles})


class _ScoreGate(Part):
    """What gates on activations have in common: the fields of ``Gate``."""

    threshold: Number
    """The gate is open above it."""
    pool: Pool = "max"
    """How the prompt's scores become one."""
    decided: Decided = "prompt"
    """When the prompt has been read, for the whole reply; or at every ``token``."""
    token_threshold: Number = 0.0
    """For the pool ``share``."""
    below: Flag = False
    """Whether it is open below the threshold instead."""

    @model_validator(mode="after")
    def _pools_tokens(self) -> "_ScoreGate":
        if self.pool == "own":
            raise PlanError("the pool 'own' is that of gates of kind 'pooled', which say none. Give another.")
        return self


class LatentGate(_ScoreGate):
    """By the largest of chosen latents: ``LatentScore``."""

    kind: Literal["latents"]
    sae: Name
    """Name of the SAE in the plan."""
    latents: Annotated[tuple[Whole, ...], Field(min_length=1)]
    site: SiteName | None = None
    """Where it reads; absent: where the SAE acts."""


class ProbeGate(_ScoreGate):
    """By a linear probe on activations or latents: ``ProbeScore``."""

    kind: Literal["probe"]
    site: SiteName
    weights: Name
    """Name of a vector of the plan."""
    bias: Number = 0.0
    sae: Name | None = None
    """Whose latents it reads; absent: the residual stream."""
    latents: tuple[Whole, ...] = ()
    """Which of them; empty: all."""


class ConditionGate(_ScoreGate):
    """By the nearness to a condition direction: ``ConditionScore`` (CAST)."""

    kind: Literal["condition"]
    site: SiteName
    direction: Name
    """Name of a vector of the plan."""


class PooledGate(Part):
    """By a probe on the latents of a whole prompt: ``PooledProbe``. Decided when the prompt has been read."""

    kind: Literal["pooled"]
    saes: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Names of SAEs in the plan, all at one site."""
    weights: Annotated[dict[LatentPool, Name], Field(min_length=1)]
    """For each way of pooling (``max``, ``mean``, ``last``) the name of a vector of the plan, [sum of d_sae]."""
    threshold: Number
    """The gate is open above it."""
    bias: Number = 0.0
    site: SiteName | None = None
    """Where it reads; absent: where the SAEs act."""
    below: Flag = False
    """Whether it is open below the threshold instead."""


class ClassifierGate(Part):
    """By a classifier of texts, before generation: ``TextGate``."""

    kind: Literal["text"]
    classifier: Name
    """A name that ``bind`` is given a function for; or a folder, or ``hub:owner/name``, of a transformers model."""
    label: Text | None = None
    """Of such a model, the class whose probability counts; absent: the last one."""
    threshold: Number = 0.5
    below: Flag = False


class _Gates(Part):
    """Gates of which one is made."""

    @model_validator(mode="before")
    @classmethod
    def _not_too_deep(cls, data: Any) -> Any:
        if _depth([data]) > MOST_NESTED:
            raise PlanError(f"gates are nested more than {MOST_NESTED} deep. Write them flatter.")
        return data


def _depth(gates: Iterable[object]) -> int:
    """How deep gates are nested, as they are given: data that may hold anything."""
    depth, level = 0, list(gates)
    while level and depth <= MOST_NESTED:
        inner = [one.get("gates") if isinstance(one, Mapping) else getattr(one, "gates", None) for one in level]
        level = [gate for some in inner if isinstance(some, list | tuple) for gate in some]
        depth += 1
    return depth


class AllOfGates(_Gates):
    """Open where all are."""

    kind: Literal["all_of"]
    gates: Annotated[tuple["GateSpec", ...], Field(min_length=1)]


class AnyOfGates(_Gates):
    """Open where any is."""

    kind: Literal["any_of"]
    gates: Annotated[tuple["GateSpec", ...], Field(min_length=1)]


GateSpec = Annotated[
    LatentGate | ProbeGate | ConditionGate | PooledGate | ClassifierGate | AllOfGates | AnyOfGates,
    Field(discriminator="kind"),
]
LeafGate = LatentGate | ProbeGate | ConditionGate | PooledGate | ClassifierGate
AllOfGates.model_rebuild()
AnyOfGates.model_rebuild()


def leaves(gate: GateSpec | None) -> list[LeafGate]:
    """The gates that decide each for itself."""
    if gate is None:
        return []
    if isinstance(gate, AllOfGates | AnyOfGates):
        return [leaf for one in gate.gates for leaf in leaves(one)]
    return [gate]
