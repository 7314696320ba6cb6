"""From interventions back to a plan: whatever was built or fitted in Python can be kept, shown and shared."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from saes import SAE
from steer.errors import PlanError
from steer.models.decode import Sampling
from steer.models.model import LanguageModel
from steer.plans.plan import SamplingSpec, SteeringPlan
from steer.plans.sources import ModelSpec, SaeSpec
from steer.steering.direction_edits import DirectionEdit
from steer.steering.gate_trees import AllOf, AnyOf
from steer.steering.gates import AnyGate, Gate, Gated
from steer.steering.intervention import Intervention
from steer.steering.latents import LatentEdit
from steer.steering.null_space import NullSpaceEdit
from steer.steering.pooled_probe import PooledProbe
from steer.steering.scores import ConditionScore, LatentScore, ProbeScore
from steer.steering.window import Window


def plan_of(
    lm: LanguageModel,
    interventions: Sequence[Intervention],
    saes: Mapping[str, SAE] | None = None,
    system: str | None = None,
    sampling: Sampling | None = None,
    label: str | None = None,
    fitted_on: Collection[str] = (),
) -> SteeringPlan:
    """The plan that means these interventions on this model; bound to it, they compute the same.

    ``saes`` holds each SAE that they use by its source: a path (relative to where the plan will be written),
    ``hub:owner/name/folder`` or ``saelens:release/id``. ``fitted_on`` are digests of the prompts that they were fitted
    on, such as ``Fitted.fitted_on``. Gates on texts have no place: a plan names a classifier, and
    knows no function.

    Raises:
        PlanError: an SAE has no source, values differ from row to row, or an intervention has no place in a plan.
    """
    writer = _Writer(saes or {})
    edits = [writer.edit(one) for one in interventions]
    return SteeringPlan(
        label=label,
        fitted_on=tuple(sorted(fitted_on)),
        model=ModelSpec.of(lm),
        saes={name: SaeSpec.of(sae, source, sae.config.site) for source, (name, sae) in writer.named.items()},
        vectors=writer.vectors,
        system=system,
        sampling=None if sampling is None else SamplingSpec(**vars(sampling)),
        edits=edits,  # type: ignore[arg-type]  # made and checked by the plan
    )


class _Writer:
    """Names SAEs and vectors as edits come to use them."""

    def __init__(self, saes: Mapping[str, SAE]) -> None:
        names = ["sae"] if len(saes) == 1 else [f"sae{place}" for place in range(len(saes))]
        self.named = {source: (name, sae) for name, (source, sae) in zip(names, saes.items(), strict=True)}
        self.vectors: dict[str, Tensor] = {}

    def edit(self, one: Intervention) -> dict[str, Any]:
        """An intervention as an edit of a plan; PlanError where plans cannot say it."""
        if isinstance(one, Gated):
            return self.edit(one.intervention) | {"gate": self.gate(one.gate)}
        if isinstance(one, LatentEdit):
            return self._latents(one)
        if isinstance(one, DirectionEdit):
            return self._direction(one)
        if isinstance(one, NullSpaceEdit):
            return {
                "kind": "null_space",
                "site": str(one.site),
                "matrix": self.vector("matrix", one.matrix),
                "strength": one.strength,
                "window": _window(one.window),
            }
        raise PlanError(
            f"{type(one).__name__} has no place in a plan, which holds edits of latents, along directions and by a "
            "null-space map, the same for all rows of a batch."
        )

    def _latents(self, one: LatentEdit) -> dict[str, Any]:
        edit: dict[str, Any] = {
            "kind": "latents",
            "sae": self.sae(one.sae),
            "site": str(one.site),
            "values": {latent: _number(value) for latent, value in one.latents.items()},
            "operation": one.operation,
            "unit": one.unit,
            "membership": one.membership,
            "error": one.error,
            "window": _window(one.window),
        }
        if one.maxima is None:
            return edit
        maxima = {latent: float(one.maxima[latent]) for latent in one.latents}
        return edit | {"unit": "max_activation", "maxima": maxima}

    def _direction(self, one: DirectionEdit) -> dict[str, Any]:
        return {
            "kind": "direction",
            "site": str(one.site),
            "direction": self.vector("direction", one.direction),
            "strength": _number(one.strength),
            "operation": one.operation,
            "unit": one.unit,
            "second": None if one.second is None else self.vector("second", one.second),
            "window": _window(one.window),
        }

    def gate(self, one: AnyGate) -> dict[str, Any]:
        """A gate as a part of an edit; PlanError where plans cannot say it."""
        if isinstance(one, AllOf | AnyOf):
            kind = "all_of" if isinstance(one, AllOf) else "any_of"
            return {"kind": kind, "gates": [self.gate(each) for each in one.gates]}
        if not isinstance(one, Gate):
            raise PlanError(
                f"{type(one).__name__} has no place in a plan that is made from interventions. Write the plan with a "
                "gate of kind 'text' and the name of its classifier, for which bind is given the function."
            )
        decides: dict[str, Any] = {"threshold": float(one.threshold), "below": one.below}
        if isinstance(one.score, PooledProbe):
            return self._pooled(one.score) | decides
        decides |= {"pool": one.pool, "decided": one.decided, "token_threshold": float(one.token_threshold)}
        return self._score(one.score) | decides

    def _score(self, score: object) -> dict[str, Any]:
        if isinstance(score, LatentScore):
            return {
                "kind": "latents", "sae": self.sae(score.sae), "latents": list(score.latents), "site": str(score.site)
            }  # fmt: skip
        if isinstance(score, ConditionScore):
            return {
                "kind": "condition",
                "site": str(score.site),
                "direction": self.vector("condition", score.direction),
            }
        if isinstance(score, ProbeScore):
            return {
                "kind": "probe",
                "site": str(score.site),
                "weights": self.vector("probe", score.weights),
                "bias": float(score.bias),
                "sae": None if score.sae is None else self.sae(score.sae),
                "latents": list(score.latents),
            }
        raise PlanError(f"A score of the kind {type(score).__name__} has no place in a plan.")

    def _pooled(self, probe: PooledProbe) -> dict[str, Any]:
        return {
            "kind": "pooled",
            "saes": [self.sae(sae) for sae in probe.saes],
            "weights": {pool: self.vector(f"probe_{pool}", weights) for pool, weights in probe.weights.items()},
            "bias": float(probe.bias),
            "site": str(probe.site),
        }

    def sae(self, sae: SAE) -> str:
        """The plan's name of an SAE; PlanError where the source of it is not told."""
        for name, known in self.named.values():
            if known is sae or (known.config == sae.config and torch.equal(known.W_dec.cpu(), sae.W_dec.cpu())):
                return name
        raise PlanError(
            f"An intervention uses an SAE of which the source is not told: d_in {sae.config.d_in}, d_sae "
            f"{sae.config.d_sae}, site {sae.config.site}. Give saes={{source: sae}}."
        )

    def vector(self, stem: str, vector: Tensor) -> str:
        """The plan's name of a vector; the same vector has one name."""
        kept = vector.detach().float().cpu()
        for name, known in self.vectors.items():
            if known.shape == kept.shape and torch.equal(known, kept):
                return name
        name = stem if stem not in self.vectors else f"{stem}_{len(self.vectors)}"
        self.vectors[name] = kept
        return name


def _window(window: Window) -> dict[str, Any]:
    roles = None if window.roles is None else sorted(window.roles)
    return {**vars(window), "exclude_ids": sorted(window.exclude_ids), "roles": roles}


def _number(value: float | Tensor) -> float:
    if isinstance(value, Tensor):
        raise PlanError(f"A plan is the same for all rows, but a value is given for each of {len(value)} rows.")
    return float(value)
