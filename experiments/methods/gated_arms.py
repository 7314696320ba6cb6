"""The gated method with its parts exchanged: other windows, strengths and gates, each with the same rest."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from experiments.methods.arms import Arm
from experiments.methods.gated_prompts import Development, per_set
from saes import SAE
from steer.evals.sample import Sample
from steer.methods.fitted import Fitted, last_states
from steer.methods.gated_sae import FittedGate, GatedSaeConfig, fit_gate, prompt_features
from steer.methods.probes import bounded_threshold, cross_scores, fit_probe, folds_of
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.responders.prompted import Unsteered
from steer.responders.steered import Steered
from steer.steering.direction_edits import AddDirection
from steer.steering.directions import refusal_direction
from steer.steering.gates import Gate, Gated
from steer.steering.intervention import Intervention
from steer.steering.latents import Clamp
from steer.steering.scores import LatentScore, ProbeScore
from steer.steering.window import Window

WINDOWS = {
    "all tokens": Window(),
    "prompt": Window("prompt"),
    "last token": Window("last"),
    "reply": Window("generated", stop=8),
}


ArmRow = tuple[Arm, Gate | None, Sequence[Sample]]


def arms(
    lm: LanguageModel,
    trained: Sequence[SAE],
    dev: Development,
    fitted: Fitted,
    config: GatedSaeConfig,
    test: Sequence[Sample],
    limit: int | None,
) -> Iterator[ArmRow]:
    """The model as it is and the method, on all test prompts; then its parts exchanged, on the first of each set."""
    (gated,) = fitted.interventions
    assert isinstance(gated, Gated)
    clamp, gate = gated.intervention, gate_of(fitted)
    assert isinstance(clamp, Clamp)
    latent, strength = fitted.record["chosen"]["latent"], fitted.record["chosen"]["strength"]
    yield Arm("unsteered", Unsteered(lm)), None, test
    yield Arm("gated-sae", Steered(lm, [gated], name="gated-sae"), fitted.record), gate, test

    def arm(name: str, intervention: Intervention, of: Gate | None, record: dict[str, Any] | None = None) -> ArmRow:
        whole = intervention if of is None else Gated(intervention, of)
        return Arm(name, Steered(lm, [whole], name=name), record or {}), of, per_set(test, limit or len(test))

    yield arm("no gate", clamp, None)
    yield arm("no gate, all tokens, half the strength", Clamp(trained[0], {latent: strength / 2}, clamp.site), None)
    for name, window in WINDOWS.items():
        if window != clamp.window:
            yield arm(f"window: {name}", replace(clamp, window=window), gate)
    for value in (0.5 * strength, 0.75 * strength, 1.5 * strength):
        yield arm(f"strength: {value:g}", Clamp(trained[0], {latent: value}, clamp.site, window=clamp.window), gate)
    direction = refusal_direction(lm, clamp.site, said(dev.unsafe[:100]), said(dev.benign[:100]))
    yield arm("direction of length 6 instead of the latent", AddDirection(clamp.site, direction, 6.0), gate)
    for name, made in gates(lm, trained, dev, config).items():
        yield arm(f"gate: {name}", clamp, made.gate, made.record)


def gates(lm: LanguageModel, trained: Sequence[SAE], dev: Development, config: GatedSaeConfig) -> dict[str, FittedGate]:
    """Other gates, each held to the same false-positive rate by the same rule."""
    found = {
        "one SAE": fit_gate(lm, trained[:1], dev.unsafe, dev.benign, dev.counterexamples, config),
        "max alone": fit_gate(
            lm, trained, dev.unsafe, dev.benign, dev.counterexamples, replace(config, pools=("max",))
        ),
        "last token alone": fit_gate(
            lm, trained, dev.unsafe, dev.benign, dev.counterexamples, replace(config, pools=("last",))
        ),
        "no counterexamples": fit_gate(lm, trained, dev.unsafe, dev.benign, (), config),
    }
    samples = [*dev.unsafe, *dev.benign, *dev.counterexamples]
    labels = torch.arange(len(samples)) < len(dev.unsafe)
    largest = prompt_features(lm, trained[:1], said(samples), ("max",))
    latent = int(max(range(largest.shape[1]), key=lambda i: _auc(largest[labels, i], largest[~labels, i])))
    threshold = bounded_threshold(largest[:, latent], samples, dev.benign, config.false_positive_rate)
    found["one latent"] = FittedGate(Gate(LatentScore(trained[0], [latent]), threshold), {"latent": latent})
    site = Site.parse(trained[0].config.site or "")
    x = last_states(lm, [site], said(samples))[0, :, 0]
    scores = cross_scores(x, labels, folds_of(samples, config.folds, config.content_tags), 10.0)
    threshold = bounded_threshold(scores, samples, dev.benign, config.false_positive_rate)
    weight, bias = fit_probe(x, labels, 10.0)
    probe = ProbeScore(site, weight.float(), bias.item())
    found["probe on the residual stream"] = FittedGate(Gate(probe, threshold, pool="last"), {"penalty": 10.0})
    return found


def gate_of(fitted: Fitted) -> Gate:
    """The gate of the one intervention."""
    (gated,) = fitted.interventions
    assert isinstance(gated, Gated)
    assert isinstance(gated.gate, Gate)
    return gated.gate


def said(samples: Sequence[Sample]) -> list[Any]:
    """The conversations of samples."""
    return [sample.messages for sample in samples]


def _auc(positive: Tensor, negative: Tensor) -> float:
    both = torch.cat([positive, negative]).sort()
    ranks = torch.searchsorted(both.values, positive) + torch.searchsorted(both.values, positive, right=True)
    return (ranks.double().sum() / 2 - len(positive) ** 2 / 2).item() / (len(positive) * max(1, len(negative)))
