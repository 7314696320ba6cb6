"""Abstaining by steering, only where a prompt is about the targets: a condition found on questions, and a behaviour.

SELECT steers in this way: a direction found for the concept tells related from unrelated queries, and a refusal
direction acts on those. The condition here is CAST's (``steer.methods.conditional``), or a linear probe.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steer.checks import require_finite, require_whole
from steer.errors import DataError, PlanError
from steer.methods import conditional
from steer.methods.abstention.concepts import Abstaining, Concept, Questions, drawn
from steer.methods.conditional import ConditionalConfig
from steer.methods.fitted import Fitted, mean_states
from steer.methods.probes import cross_scores, fit_probe
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.responders.steered import Steered
from steer.steering.gates import Gate, Gated, fit_threshold
from steer.steering.intervention import Intervention
from steer.steering.scores import ProbeScore

ConditionKind = Literal["probe", "cast"]


@dataclass(frozen=True)
class GatingConfig:
    """How the condition is found.

    Raises:
        PlanError: a value that cannot work.
    """

    condition: ConditionKind = "probe"
    """``probe``: a logistic regression on the mean activation of a prompt; ``cast``: as published for CAST."""
    false_positive_rate: float = 0.02
    """Largest share of answered questions on which the probe's gate opens, by probes that have not seen them."""
    folds: int = 5
    """Parts of the questions that the probe is fitted without in turn, to see how it does on what it has not seen."""
    penalty: float = 1.0
    """Weight of the squared weights of the probe, on activations of deviation 1."""
    answered: float = 5.0
    """Questions to answer for each question to abstain from; the release has 1 for steering and 5 for tuning."""
    below: float = 1.0
    """Questions about descendants for each question about a target, at most; the release has 0 for steering, 1 for
    tuning."""
    seed: int = 0
    """Of the questions that are drawn."""

    def __post_init__(self) -> None:
        if self.condition not in get_args(ConditionKind):
            raise PlanError(f"condition must be one of {', '.join(get_args(ConditionKind))}, got {self.condition!r}.")
        for name in ("false_positive_rate", "penalty", "answered", "below"):
            require_finite(name, getattr(self, name), PlanError)
        require_whole("folds", self.folds, PlanError, least=2)


def gated(
    lm: LanguageModel,
    targets: Sequence[Concept],
    others: Sequence[Concept],
    behaviour: Sequence[Intervention],
    config: GatingConfig | None = None,
) -> Abstaining:
    """``behaviour``, which makes the model refuse whatever it is asked, where a question is about the targets.

    Raises:
        DataError: too few questions, or nothing tells them apart.
        PlanError: there is no behaviour, or it acts before any layer that may be read.
    """
    config = config or GatingConfig()
    questions = drawn(targets, others, config.answered, config.below, config.seed)
    find = _cast if config.condition == "cast" else _probed
    fitted = find(lm, questions, behaviour, config)
    record = {"method": "gated", "condition": fitted.record, "questions": questions.record}
    return Abstaining(Steered(lm, fitted.interventions, name=f"gated, {config.condition}"), record)


def _cast(lm: LanguageModel, questions: Questions, behaviour: Sequence[Intervention], config: GatingConfig) -> Fitted:
    """CAST's condition; questions about the targets are above its threshold."""
    cast = ConditionalConfig(vector="mean_difference", comparators=("above",))
    return conditional.fit(lm, questions.abstain, questions.answer, behaviour, cast)


def _probed(lm: LanguageModel, questions: Questions, behaviour: Sequence[Intervention], config: GatingConfig) -> Fitted:
    """A probe at the layer where most of the questions to abstain from open the gate; of equals the first."""
    if min(len(questions.abstain), len(questions.answer)) < config.folds:
        raise DataError(
            f"A probe in {config.folds} folds needs as many questions of each kind, got {len(questions.abstain)} to "
            f"abstain from and {len(questions.answer)} to answer. Give more, or fewer folds."
        )
    sites = [Site(layer, "resid_pre") for layer in _layers(lm, behaviour)]
    states = mean_states(lm, sites, [*questions.abstain, *questions.answer])
    labels = torch.arange(states.shape[1]) < len(questions.abstain)
    folds = torch.cat([torch.arange(n) for n in (len(questions.abstain), len(questions.answer))]) % config.folds
    found = []
    for site, x in zip(sites, states, strict=True):
        scores = cross_scores(x, labels, folds, config.penalty)
        threshold = fit_threshold(scores[~labels], config.false_positive_rate)
        found.append({"layer": site.layer, "threshold": threshold, **_rates(scores, labels, threshold)})
    best = max(range(len(found)), key=lambda place: (found[place]["opened"], -place))
    weights, bias = fit_probe(states[best], labels, config.penalty)
    gate = Gate(ProbeScore(sites[best], weights.float(), bias.item()), found[best]["threshold"], "mean")
    record = {
        "method": "probe",
        "chosen": found[best],
        "searched": found,
        "false_positive_rate": config.false_positive_rate,
        "folds": config.folds,
        "penalty": config.penalty,
    }
    return Fitted(tuple(Gated(one, gate) for one in behaviour), record)


def _rates(scores: Float[Tensor, " question"], labels: Bool[Tensor, " question"], threshold: float) -> dict[str, float]:
    """Shares of questions on which the gate opens, where it should and where it should not."""
    opened = scores > threshold
    return {
        "opened": opened[labels].double().mean().item(),
        "opened_wrongly": opened[~labels].double().mean().item(),
    }


def _layers(lm: LanguageModel, behaviour: Sequence[Intervention]) -> list[int]:
    """Layers whose input may be read in time."""
    if not behaviour:
        raise PlanError("A condition needs a behaviour: interventions that act when it is met.")
    first = min(one.site.order for one in behaviour)
    found = [layer for layer in range(lm.n_layers) if Site(layer, "resid_pre").order <= first]
    if not found:
        raise PlanError("The behaviour acts before any layer is read. Act later.")
    return found
