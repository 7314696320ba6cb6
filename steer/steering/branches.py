"""One call in which every prompt is steered in several ways: a sweep of strengths shares its batches.

Row ``p * S + s`` of such a call is prompt ``p`` steered in way ``s`` of S, as ``LanguageModel.generate_ids(copies=S)``
numbers them. Ways that differ only in their values become one intervention with a value for each row, so that an SAE is
encoded once for all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from torch import Tensor

from steer.errors import PlanError
from steer.models.site import Site
from steer.steering.direction_edits import DirectionEdit
from steer.steering.gates import Gated
from steer.steering.intervention import Intervention
from steer.steering.latents import LatentEdit
from steer.steering.rows import OnRows
from steer.steering.values import stacked
from steer.steering.window import Window

Ways = Sequence[Sequence[Intervention]]
Values = dict[int, float | Tensor]
_PLAIN = (str, Site, Window, Mapping)  # settings that are equal where they say the same


@dataclass(frozen=True)
class _Kind:
    """Interventions that differ only in their values: one of them, and each way's values."""

    first: Intervention
    values: dict[int, Values]


def branched(ways: Ways, prompts: int) -> list[Intervention]:
    """The interventions of a call in which each of ``prompts`` is steered in all ``ways``; a way may be empty.

    Raises:
        PlanError: there is no way, or one has values for each row, which are rows of another call.
    """
    if not ways:
        raise PlanError("Branches need at least one way of steering; an empty one means none.")
    found: list[Intervention] = []
    for kind in _kinds(ways):
        everywhere = [kind.values.get(way, next(iter(kind.values.values()))) for way in range(len(ways))]
        together = _with_values(kind.first, everywhere, prompts)
        rows = [prompt * len(ways) + way for prompt in range(prompts) for way in kind.values]
        found.append(together if len(kind.values) == len(ways) else OnRows(together, rows))
    return found


def _kinds(ways: Ways) -> list[_Kind]:
    """The interventions of all ways, those that differ only in their values together, at most one of each way."""
    kinds: list[_Kind] = []
    for way, interventions in enumerate(ways):
        for one in interventions:
            values = _values(one)
            if any(isinstance(value, Tensor) for value in values.values()):
                raise PlanError(
                    "A way of steering has values for each row, but here each way has rows of its own. Give numbers."
                )
            for kind in kinds:
                if way not in kind.values and _alike(kind.first, one):
                    kind.values[way] = values
                    break
            else:
                kinds.append(_Kind(one, {way: values}))
    return kinds


def _values(one: Intervention) -> Values:
    """What may differ between interventions that are made together."""
    if isinstance(one, Gated):
        return _values(one.intervention)
    if isinstance(one, LatentEdit):
        return dict(one.latents)
    if isinstance(one, DirectionEdit):
        return {0: one.strength}
    return {}


def _alike(first: Intervention, second: Intervention) -> bool:
    """Whether two interventions differ in nothing but their values."""
    if first is second:
        return True
    if isinstance(first, Gated) and isinstance(second, Gated):
        return first.gate is second.gate and _alike(first.intervention, second.intervention)
    if isinstance(first, LatentEdit) and isinstance(second, LatentEdit):
        return list(first.latents) == list(second.latents) and _same(LatentEdit, first, second, "latents")
    if isinstance(first, DirectionEdit) and isinstance(second, DirectionEdit):
        return first.direction.equal(second.direction) and _same(DirectionEdit, first, second, "strength", "direction")
    return False


def _same(kind: type, first: object, second: object, *others: str) -> bool:
    """Whether what they were made of is the same, but for the ``others``."""
    pairs = [(getattr(first, name), getattr(second, name)) for name in _made_of(kind) if name not in others]
    return all(one is other or (isinstance(one, _PLAIN) and one == other) for one, other in pairs)


def _made_of(kind: type) -> list[str]:
    return [one.name for one in fields(kind) if one.init]


def _with_values(one: Intervention, ways: Sequence[Values], prompts: int) -> Intervention:
    """The intervention with the values of each way in its rows."""
    if isinstance(one, Gated):
        return Gated(_with_values(one.intervention, ways, prompts), one.gate)
    if isinstance(one, LatentEdit):
        latents = {latent: stacked([values[latent] for values in ways], prompts) for latent in one.latents}
        return LatentEdit(**{name: getattr(one, name) for name in _made_of(LatentEdit)} | {"latents": latents})
    if isinstance(one, DirectionEdit):
        strength = stacked([values[0] for values in ways], prompts)
        return DirectionEdit(**{name: getattr(one, name) for name in _made_of(DirectionEdit)} | {"strength": strength})
    return one
