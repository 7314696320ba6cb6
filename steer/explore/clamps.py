"""Edits of latents as they are typed, in and out of a plan."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, get_args

from steer.checks import hint
from steer.errors import DataError
from steer.plans.conditions import WindowSpec
from steer.plans.edits import EditSpec, LatentEditSpec
from steer.plans.plan import SteeringPlan
from steer.plans.sources import SaeSpec
from steer.steering.operations import Operation

FORM = "LATENT=VALUE or LATENT=OPERATION:VALUE, such as 262=10, 15=scale:0.5, 15=ablate, 262=1.5max"
_UNITS = {"": "raw", "max": "max_activation", "norm": "residual_norm"}
_TYPED = re.compile(r"(\d{1,12})=(?:([a-z_]+)(?::|$))?([^:a-z]*(?:[eE][+-]?\d+)?)([a-z]*)", re.ASCII)


@dataclass(frozen=True)
class Typed:
    """One edit of one latent, as it is typed."""

    latent: int
    operation: str
    value: float
    unit: str
    """``raw``, ``max_activation`` or ``residual_norm``, as in a plan."""


def parse(text: str) -> Typed:
    """An edit of the form ``262=10``, ``15=scale:0.5``, ``15=ablate``, ``262=1.5max`` or ``262=0.2norm``.

    Raises:
        DataError: it has another form.
    """
    match = _TYPED.fullmatch(text)
    if match is None:
        raise DataError(f"Expected {FORM}; got {text!r}.")
    latent, operation, value, unit = match[1], match[2] or "set", match[3], match[4]
    if {operation, unit} & {"nan", "inf", "infinity"}:
        raise DataError(f"Expected {FORM}; got {text!r}, which is not finite.")
    if operation not in get_args(Operation):
        raise DataError(
            f"{text!r}: no operation is called {operation!r}. {hint(operation, get_args(Operation), 'They are')}"
        )
    if unit not in _UNITS:
        raise DataError(f"{text!r}: the unit {unit!r} is unknown. Leave it out (raw activation), or give max or norm.")
    if not value and operation == "ablate":
        return Typed(int(latent), operation, 0.0, "raw")
    try:
        if "_" in value or not isfinite(number := float(value)):
            raise ValueError
    except ValueError:
        raise DataError(f"Expected {FORM}; got {text!r}, in which {value!r} is no finite number.") from None
    return Typed(int(latent), operation, number, _UNITS[unit])


def sae_name(plan: SteeringPlan, digest: str) -> str:
    """What the plan calls the SAE of this digest; where it does not have it, a name that is free."""
    for name, spec in plan.saes.items():
        if spec.digest == digest:
            return name
    return next(name for name in ("sae", *(f"sae{n}" for n in range(2, len(plan.saes) + 3))) if name not in plan.saes)


def clamped(plan: SteeringPlan, typed: Typed, sae: str, spec: SaeSpec, maximum: float | None) -> SteeringPlan:
    """The plan with one more edit of a latent; what was typed of the latent before is replaced.

    ``maximum`` is the latent's largest activation, in raw units, where the edit is in multiples of it.

    Raises:
        PlanError: a value is not finite, or too large.
    """
    edits, taken = list(without(plan, sae, [typed.latent], own=True).edits), False
    for place, edit in enumerate(edits):
        if isinstance(edit, LatentEditSpec) and _is_own(edit, sae) and _fits(edit, typed):
            edits[place], taken = _with(edit, typed, maximum), True
            break
    if not taken:
        edits.append(_with(None, typed, maximum, sae))
    return changed(plan, edits=tuple(edits), saes={**plan.saes, sae: spec})


def without(plan: SteeringPlan, sae: str, latents: Collection[int] | None = None, own: bool = False) -> SteeringPlan:
    """The plan without edits of some latents of an SAE; None: without any edits, whatever they are of.

    With ``own`` only such edits go as ``clamped`` makes: without a gate, on all tokens.
    """
    if latents is None:
        return changed(plan, edits=(), saes={}, vectors={})
    kept: list[EditSpec] = []
    for edit in plan.edits:
        if not isinstance(edit, LatentEditSpec) or edit.sae != sae or (own and not _is_own(edit, sae)):
            kept.append(edit)
            continue
        values = {latent: value for latent, value in edit.values.items() if latent not in latents}
        if values:
            maxima = None if edit.maxima is None else {latent: edit.maxima[latent] for latent in values}
            kept.append(_edit(edit, values=values, maxima=maxima))
    return changed(plan, edits=tuple(kept))


def changed(plan: SteeringPlan, **fields: Any) -> SteeringPlan:
    """A plan with other fields, checked as any plan is; label, source and licence are no longer of it."""
    held = {name: getattr(plan, name) for name in type(plan).model_fields if name not in ("label", "source", "licence")}
    return SteeringPlan(**{**held, **fields})


def _is_own(edit: LatentEditSpec, sae: str) -> bool:
    plain = edit.gate is None and edit.window == WindowSpec() and edit.site is None
    return edit.sae == sae and plain and edit.membership == "allow" and edit.error == "keep"


def _fits(edit: LatentEditSpec, typed: Typed) -> bool:
    return edit.operation == typed.operation and edit.unit == typed.unit


def _with(edit: LatentEditSpec | None, typed: Typed, maximum: float | None, sae: str = "") -> LatentEditSpec:
    values: Mapping[int, float] = {} if edit is None else edit.values
    maxima = None if edit is None else edit.maxima
    if maximum is not None:
        maxima = {**(maxima or {}), typed.latent: maximum}
    new = {"values": {**values, typed.latent: typed.value}, "maxima": maxima}
    if edit is not None:
        return _edit(edit, **new)
    return LatentEditSpec(kind="latents", sae=sae, operation=typed.operation, unit=typed.unit, **new)


def _edit(edit: LatentEditSpec, **fields: Any) -> LatentEditSpec:
    return LatentEditSpec(**{**{name: getattr(edit, name) for name in type(edit).model_fields}, **fields})
