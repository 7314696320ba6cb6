"""From the data of a plan to interventions and gates."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from saes import SAE
from steer.errors import PlanError
from steer.plans.conditions import (
    AllOfGates,
    ClassifierGate,
    ConditionGate,
    GateSpec,
    LatentGate,
    PooledGate,
    ProbeGate,
    leaves,
)
from steer.plans.edits import DirectionEditSpec, EditSpec, LatentEditSpec, NullSpaceEditSpec
from steer.plans.sources import SaeSpec
from steer.steering.direction_edits import DirectionEdit
from steer.steering.gate_trees import AllOf, AnyOf
from steer.steering.gates import AnyGate, Gate, Gated
from steer.steering.intervention import Intervention
from steer.steering.latents import LatentEdit
from steer.steering.null_space import NullSpaceEdit
from steer.steering.pooled_probe import PooledProbe
from steer.steering.scores import ConditionScore, LatentScore, ProbeScore, Score
from steer.steering.text_gate import Classifier, TextGate


@dataclass(frozen=True)
class Material:
    """What the names in a plan stand for."""

    saes: Mapping[str, SAE]
    specs: Mapping[str, SaeSpec]
    vectors: Mapping[str, Tensor]
    classifier: Callable[[ClassifierGate], Classifier]
    """Gives the classifier of a gate, or raises PlanError."""

    def site(self, sae: str, given: str | None) -> str | None:
        """Where an SAE is read or edited; None: where it was trained."""
        return given or self.specs[sae].site


def intervention(edit: EditSpec, material: Material) -> Intervention:
    """What a plan's edit means.

    Raises:
        PlanError: it cannot be.
        SiteError: a name of a site is none.
    """
    made: Intervention
    if isinstance(edit, LatentEditSpec):
        made = LatentEdit(
            material.saes[edit.sae],
            edit.values,
            material.site(edit.sae, edit.site),
            edit.operation,
            edit.window.window(),
            edit.maxima,
            edit.membership,
            edit.error,
            "residual_norm" if edit.unit == "residual_norm" else "raw",
        )
    else:
        made = vector_edit(edit, material.vectors)
    return made if edit.gate is None else Gated(made, _gate(edit.gate, material))


def vector_edit(edit: DirectionEditSpec | NullSpaceEditSpec, vectors: Mapping[str, Tensor]) -> Intervention:
    """What an edit by a direction or a matrix means, without its gate. Errors as ``intervention``."""
    if isinstance(edit, NullSpaceEditSpec):
        return NullSpaceEdit(edit.site, _of_axes(vectors, edit.matrix, 2), edit.strength, edit.window.window())
    return DirectionEdit(
        edit.site,
        _of_axes(vectors, edit.direction, 1),
        edit.strength,
        edit.operation,
        edit.unit,
        edit.window.window(),
        None if edit.second is None else _of_axes(vectors, edit.second, 1),
    )


def _of_axes(vectors: Mapping[str, Tensor], name: str, axes: int) -> Tensor:
    """The plan's vector (1 axis) or matrix (2) of a name."""
    if vectors[name].ndim != axes:
        raise PlanError(
            f"{name!r} is of shape {list(vectors[name].shape)}, where a {'vector' if axes == 1 else 'matrix'} is named."
        )
    return vectors[name]


def _gate(gate: GateSpec, material: Material) -> AnyGate:
    if isinstance(gate, ClassifierGate):
        return TextGate(material.classifier(gate), gate.threshold, gate.below)
    if isinstance(gate, LatentGate | ProbeGate | ConditionGate):
        score = _score(gate, material)
        return Gate(score, gate.threshold, gate.pool, gate.decided, gate.token_threshold, gate.below)
    if isinstance(gate, PooledGate):
        return Gate(_pooled(gate, material), gate.threshold, "own", below=gate.below)
    several = [_gate(one, material) for one in gate.gates]
    return AllOf(several) if isinstance(gate, AllOfGates) else AnyOf(several)


def _score(gate: LatentGate | ProbeGate | ConditionGate, material: Material) -> Score:
    if isinstance(gate, LatentGate):
        return LatentScore(material.saes[gate.sae], gate.latents, material.site(gate.sae, gate.site))
    if isinstance(gate, ConditionGate):
        return ConditionScore(gate.site, material.vectors[gate.direction])
    sae = None if gate.sae is None else material.saes[gate.sae]
    return ProbeScore(gate.site, material.vectors[gate.weights], gate.bias, sae, gate.latents)


def _pooled(gate: PooledGate, material: Material) -> PooledProbe:
    weights = {pool: _of_axes(material.vectors, name, 1) for pool, name in gate.weights.items()}
    saes = [material.saes[name] for name in gate.saes]
    return PooledProbe(saes, weights, gate.bias, material.site(gate.saes[0], gate.site))


def sae_names(edit: EditSpec) -> list[str]:
    """The SAEs that an edit and its gates use."""
    gates = [gate.sae for gate in leaves(edit.gate) if isinstance(gate, LatentGate | ProbeGate) and gate.sae]
    gates += [name for gate in leaves(edit.gate) if isinstance(gate, PooledGate) for name in gate.saes]
    return [*([edit.sae] if isinstance(edit, LatentEditSpec) else []), *gates]


def vector_names(edit: EditSpec) -> list[str]:
    """The vectors that an edit and its gates use."""
    own = [edit.direction, edit.second] if isinstance(edit, DirectionEditSpec) else []
    own += [edit.matrix] if isinstance(edit, NullSpaceEditSpec) else []
    probes = [gate.weights for gate in leaves(edit.gate) if isinstance(gate, ProbeGate)]
    conditions = [gate.direction for gate in leaves(edit.gate) if isinstance(gate, ConditionGate)]
    pools = [name for gate in leaves(edit.gate) if isinstance(gate, PooledGate) for name in gate.weights.values()]
    return [name for name in [*own, *probes, *conditions, *pools] if name is not None]


def check_names(edit: EditSpec, saes: Collection[str], vectors: Collection[str]) -> None:
    """Raise PlanError unless the plan has everything that an edit names."""
    for kind, names, known in (("SAE", sae_names(edit), saes), ("vector", vector_names(edit), vectors)):
        if missing := [name for name in names if name not in known]:
            raise PlanError(f"The plan has no {kind} of the name {missing[0]!r}: it has {', '.join(known) or 'none'}.")
