"""Conditional activation steering (CAST, arXiv 2409.05907): act only if a prompt's activations meet a condition.

A condition vector is taken from harmful and harmless prompts at each layer's input; layer, threshold and side of the
threshold are searched for the best F1. The prompt's mean activation h meets the condition if cos(h, tanh(P h)), with P
the projection on the vector, is above (or below) the threshold; that is decided per row and kept for its reply.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from steer.errors import DataError, PlanError
from steer.methods.fitted import Fitted, about, check_prompts, mean_states
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.responders.responder import Prompts
from steer.steering.gates import Gate, Gated
from steer.steering.intervention import Intervention
from steer.steering.scores import ConditionScore

VectorKind = Literal["pca_pairwise", "mean_difference"]
Comparator = Literal["above", "below"]
"""On which side of the threshold the gate is open. CAST's code says ``larger`` where it means below: "the threshold is
larger than the similarity"."""


@dataclass(frozen=True)
class ConditionalConfig:
    """How the condition is found."""

    vector: VectorKind = "pca_pairwise"
    """``pca_pairwise``: the first principal component of pairs, each less its own mean, as in the paper's code; or the
    difference of means."""
    layers: tuple[int, ...] | None = None
    """Layers whose input is tried; None: all up to where the behaviour acts."""
    comparators: tuple[Comparator, ...] = get_args(Comparator)
    """Sides of the threshold that are tried."""

    def __post_init__(self) -> None:
        if self.vector not in get_args(VectorKind):
            raise PlanError(f"vector must be one of {', '.join(get_args(VectorKind))}, got {self.vector!r}.")
        if not self.comparators or set(self.comparators) - set(get_args(Comparator)):
            raise PlanError(f"comparators must be of {', '.join(get_args(Comparator))}, got {self.comparators!r}.")
        if self.layers is not None and not self.layers:
            raise PlanError("layers needs a layer. Use None for all that are possible.")


@dataclass(frozen=True)
class Condition:
    """When to act, and how well that tells harmful from harmless prompts of the search."""

    layer: int
    direction: Float[Tensor, " d_model"] = field(repr=False)
    threshold: float
    comparator: Comparator
    f1: float
    margin: float
    """Distance to the nearest similarity of a prompt."""

    def gate(self) -> Gate:
        """As a gate, decided when the prompt has been read."""
        score = ConditionScore(Site(self.layer, "resid_pre"), self.direction.float())
        return Gate(score, self.threshold, "mean_state", below=self.comparator == "below")

    def row(self) -> dict[str, Any]:
        """As JSON data."""
        return {name: getattr(self, name) for name in ("layer", "threshold", "comparator", "f1", "margin")}


def fit(
    lm: LanguageModel,
    harmful: Prompts,
    harmless: Prompts,
    behaviour: Sequence[Intervention],
    config: ConditionalConfig | None = None,
) -> Fitted:
    """Find the condition under which ``behaviour`` acts.

    Half of the prompts give the vectors, the other half the best layer, threshold and comparator.

    Raises:
        DataError: a set has fewer than four prompts, or no layer tells the sets apart.
        PlanError: there is no behaviour, or it acts before any layer that may be read.
    """
    config = config or ConditionalConfig()
    if isinstance(behaviour, Intervention):
        raise PlanError("A behaviour is given as a list of interventions: [one].")
    check_prompts(harmful=harmful, harmless=harmless)
    if min(len(harmful), len(harmless)) < 4:
        raise DataError(
            f"A condition needs 4 prompts of each kind, got {len(harmful)} harmful and {len(harmless)} harmless."
        )
    sites = [Site(layer, "resid_pre") for layer in _layers(lm, behaviour, config)]
    bad, good = (mean_states(lm, sites, prompts) for prompts in (harmful, harmless))
    found = []
    for place, site in enumerate(sites):
        (bad_fit, bad_held), (good_fit, good_held) = (_halves(states[place]) for states in (bad, good))
        vector = condition_vector(bad_fit, good_fit, config.vector)
        scores = similarity(bad_held, vector), similarity(good_held, vector)
        best = best_threshold(*scores, config.comparators)
        if best is not None:
            found.append(Condition(site.layer, vector, *best))
    if not found:
        raise DataError("No layer tells harmful from harmless prompts: all are alike there. Give prompts that differ.")
    chosen = max(found, key=lambda one: (one.f1, one.margin))
    record = {
        "method": "conditional",
        "vector": config.vector,
        "chosen": chosen.row(),
        "searched": [one.row() for one in found],
        "prompts": {"harmful": about(harmful), "harmless": about(harmless)},
    }
    return Fitted(tuple(Gated(one, chosen.gate()) for one in behaviour), record)


def condition_vector(
    harmful: Float[Tensor, "a d_model"], harmless: Float[Tensor, "b d_model"], kind: VectorKind
) -> Float[Tensor, " d_model"]:
    """A direction from harmless to harmful activations, at length 1, in float64."""
    difference = harmful.mean(0) - harmless.mean(0)
    if kind == "mean_difference":
        return difference / difference.norm().clamp_min(1e-300)
    pairs = min(len(harmful), len(harmless))
    centre = (harmful[:pairs] + harmless[:pairs]) / 2
    # both halves of a pair less its centre; their mean is zero, so this is their first principal component
    centred = torch.cat([harmful[:pairs] - centre, harmless[:pairs] - centre])
    first = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    return -first if first @ difference < 0 else first


def similarity(h: Float[Tensor, "*prompt d_model"], c: Float[Tensor, " d_model"]) -> Float[Tensor, "*prompt"]:
    """``cos(h, tanh(P h))`` with ``P = c c^T / (c . c)`` (eq. 4)."""
    return torch.nn.functional.cosine_similarity(h, torch.tanh((h @ c / (c @ c)).unsqueeze(-1) * c), dim=-1)


def best_threshold(
    harmful: Float[Tensor, " a"], harmless: Float[Tensor, " b"], comparators: Sequence[Comparator]
) -> tuple[float, Comparator, float, float] | None:
    """(threshold, comparator, F1, margin) of the best F1, harmful counted as positive; None if all scores are alike.

    Every middle between neighbouring scores is tried, so no grid is finer. Of equals the widest gap is taken.
    """
    values = torch.cat([harmful, harmless]).unique()
    if len(values) < 2:
        return None
    middles, margins = (values[1:] + values[:-1]) / 2, (values[1:] - values[:-1]) / 2
    best: tuple[float, Comparator, float, float] | None = None
    for comparator in comparators:
        sign = 1.0 if comparator == "above" else -1.0
        hits, false = ((sign * scores.unsqueeze(-1) > sign * middles).sum(0).double() for scores in (harmful, harmless))
        f1 = 2 * hits / (hits + false + len(harmful))  # 2 TP / (2 TP + FP + FN)
        for threshold, value, margin in zip(middles.tolist(), f1.tolist(), margins.tolist(), strict=True):
            if best is None or (value, margin) > best[2:]:
                best = threshold, comparator, value, margin
    return best


def _layers(lm: LanguageModel, behaviour: Sequence[Intervention], config: ConditionalConfig) -> list[int]:
    """Layers that may be read in time."""
    if not behaviour:
        raise PlanError("A condition needs a behaviour: interventions that act when it is met.")
    first = min(one.site.order for one in behaviour)
    wanted = range(lm.n_layers) if config.layers is None else config.layers
    found = [layer for layer in wanted if Site(layer, "resid_pre").order <= first]
    if not found:
        raise PlanError(f"The behaviour acts before layer {min(wanted)} is read. Read earlier layers, or act later.")
    return found


def _halves(states: Float[Tensor, "prompt d_model"]) -> tuple[Tensor, Tensor]:
    """Every second prompt, and the others: sets are often ordered by kind."""
    return states[::2], states[1::2]
