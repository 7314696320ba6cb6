"""Our own method: clamp the refusal latent at the prompt's last token, where a probe on the SAE's latents opens.

Two pieces, both read from SAEs at one site. The gate is a logistic regression on the latents of the prompt, pooled
over its tokens (``PooledProbe``); its threshold keeps to a false-positive rate on each set of benign prompts, by
scores of probes that have not seen the content they score. What acts is the published clamp (arXiv 2411.11296), but on
a single token: the prompt's last one decides how a reply begins, and the rest is written by the model as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saes import SAE
from steer.checks import require_finite, require_whole
from steer.errors import DataError, PlanError
from steer.evals.sample import CONTENT_TAGS, Sample, by_set
from steer.features.archetype import latents_active, refuse_archetype
from steer.judges.rules import is_incoherent, is_refusal
from steer.methods.fitted import FORWARD_ROWS, Fitted, about, check_prompts
from steer.methods.probes import bounded_threshold, cross_scores, fit_probe, folds_of
from steer.models.batches import batches_of
from steer.models.decode import Sampling
from steer.models.model import LanguageModel
from steer.models.passes import after_first, positions_of
from steer.models.site import Site
from steer.responders.responder import Prompts
from steer.steering.each_row import clamp_each_row
from steer.steering.gates import Gate, Gated
from steer.steering.latents import Clamp, site_of
from steer.steering.pooled_probe import LatentPool, PooledProbe, pooled_latents
from steer.steering.steered import steered
from steer.steering.window import Window


@dataclass(frozen=True)
class GatedSaeConfig:
    """How gate, latent and strength are found."""

    pools: tuple[LatentPool, ...] = ("max", "last")
    """How the latents of a prompt's tokens become features of the prompt."""
    penalty: float = 100.0
    """Weight of the squared weights of the probe, on features of deviation 1 (``saes.metrics.logistic``)."""
    least_prompts: int = 10
    """Prompts that a pooled latent must be active in to be a feature."""
    false_positive_rate: float = 0.03
    """Share of the benign prompts of each set that may open the gate."""
    counterexample_rate: float = 0.1
    """The same for each set of counterexamples."""
    folds: int = 5
    """Parts of the content; each is scored by a probe fitted on the others."""
    content_tags: tuple[str, ...] = CONTENT_TAGS
    """Tags that say what a prompt is about, the first that it has: prompts about one thing share a fold."""
    archetype: str = "How do I build a car bomb?"
    """A prompt that the model refuses; the latents active meanwhile are candidates."""
    window: Window = Window("last")  # noqa: RUF009  # frozen
    """Tokens at which the latent is clamped."""
    first_strength: float = 6.0
    """Value that all candidates are clamped to, in raw activation units."""
    strengths: tuple[float, ...] = (4.0, 5.0, 6.0, 7.0, 8.0, 10.0)
    """Values that the finalists are tried at, in raw activation units."""
    enough: float = 1.0
    """Share refused of every unsafe set from which on a smaller strength is better; where none reaches it, the more the
    better."""
    finalists: int = 2
    """Candidates that are tried at every strength."""
    first_prompts: int = 6
    """Unsafe prompts of each set that all candidates are tried on, evenly spaced over it."""
    tried_prompts: int = 100
    """The same for the finalists."""
    max_new_tokens: int = 32
    """Length limit of a reply."""
    batch_size: int = 128
    """Replies made together, at most."""

    def __post_init__(self) -> None:
        for name in ("penalty", "false_positive_rate", "counterexample_rate", "first_strength", "enough"):
            require_finite(name, getattr(self, name), PlanError)
        for name in ("least_prompts", "finalists", "first_prompts", "tried_prompts", "max_new_tokens", "batch_size"):
            require_whole(name, getattr(self, name), PlanError)
        require_whole("folds", self.folds, PlanError, least=2)
        if not self.pools or not self.strengths or self.penalty <= 0:
            raise PlanError("pools and strengths need a value each, and the penalty is above 0.")
        for value in self.strengths:
            require_finite("a strength", value, PlanError)


@dataclass(frozen=True)
class FittedGate:
    """A gate, and what it lets through."""

    gate: Gate
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Push:
    """A latent clamped in the window, and what that does to unsafe prompts without a gate."""

    latent: int
    strength: float
    """The value it was clamped to, in raw units."""
    refused: Mapping[str, float]
    """Share refused of each set; a broken reply is no refusal."""
    incoherent: float
    """Share of all replies that are broken."""


def fit(
    lm: LanguageModel,
    sae: SAE,
    unsafe: Sequence[Sample],
    benign: Sequence[Sample],
    counterexamples: Sequence[Sample] = (),
    gate_saes: Sequence[SAE] = (),
    config: GatedSaeConfig | None = None,
) -> Fitted:
    """Fit the gate, find the latent and its strength.

    Args:
        lm: the model.
        sae: an SAE; gate and clamp act where it was trained.
        unsafe: prompts that are to be refused, of one or more sets.
        benign: prompts of each set that is to stay as it is, on which the threshold is fitted.
        counterexamples: benign prompts of kinds that are not measured, with a bound of their own: such as harmless
            requests inside jailbreak wrappers, without which wrappers would open the gate.
        gate_saes: further SAEs at the same site, whose latents the gate reads too.
        config: None: the defaults.

    Raises:
        DataError: a kind of prompts is missing, no latent is active often enough, or the model does not refuse the
            archetype.
        PlanError: the SAE does not fit, or does not say where it reads.
    """
    config = config or GatedSaeConfig()
    check_prompts(unsafe=unsafe, benign=benign)
    site = site_of(sae, None)
    fitted = fit_gate(lm, [sae, *gate_saes], unsafe, benign, counterexamples, config)
    pushes = find_push(lm, sae, unsafe, config)
    best = pushes[0]
    record = {
        "method": "gated-sae",
        "site": str(site),
        "gate": fitted.record,
        "chosen": _shown(best),
        "candidates": [_shown(one) for one in pushes],
        "prompts": {
            name: about([sample.messages for sample in samples]) if samples else None
            for name, samples in (("unsafe", unsafe), ("benign", benign), ("counterexamples", counterexamples))
        },
    }
    clamp = Clamp(sae, {best.latent: best.strength}, site, window=config.window)
    return Fitted((Gated(clamp, fitted.gate),), record)


def fit_gate(
    lm: LanguageModel,
    saes: Sequence[SAE],
    unsafe: Sequence[Sample],
    benign: Sequence[Sample],
    counterexamples: Sequence[Sample] = (),
    config: GatedSaeConfig | None = None,
) -> FittedGate:
    """The gate alone; arguments and errors as of ``fit``."""
    config = config or GatedSaeConfig()
    check_prompts(unsafe=unsafe, benign=benign)
    samples = [*unsafe, *benign, *counterexamples]
    features = prompt_features(lm, saes, [sample.messages for sample in samples], config.pools)
    labels = torch.arange(len(samples)) < len(unsafe)
    kept = (features > 0).sum(0) >= config.least_prompts
    if not kept.any():
        raise DataError(
            f"No latent is active in {config.least_prompts} of {len(samples)} prompts, so there is nothing to read. "
            "Give more prompts, or lower least_prompts."
        )
    x = features[:, kept]
    scores = cross_scores(x, labels, folds_of(samples, config.folds, config.content_tags), config.penalty)
    bounds = ((benign, config.false_positive_rate), (counterexamples, config.counterexample_rate))
    threshold = max(bounded_threshold(scores, samples, bounded, rate) for bounded, rate in bounds if bounded)
    weight, bias = fit_probe(x, labels, config.penalty)
    whole = torch.zeros(features.shape[1], dtype=torch.float64)
    whole[kept] = weight
    weights = dict(zip(config.pools, whole.view(len(config.pools), -1).float(), strict=True))
    probe = PooledProbe(saes, weights, bias.item())
    names = list(by_set(samples))
    opened = {
        name: sum(bool(scores[i] > threshold) for i, one in enumerate(samples) if one.set == name)
        / sum(one.set == name for one in samples)
        for name in names
    }
    record = {
        "saes": len(saes),
        "pools": list(config.pools),
        "features": int(kept.sum()),
        "penalty": config.penalty,
        "threshold": threshold,
        "false_positive_rate": config.false_positive_rate,
        "counterexample_rate": config.counterexample_rate,
        "opened_on_unseen_content": opened,
    }
    return FittedGate(Gate(probe, threshold, pool="own"), record)


def find_push(lm: LanguageModel, sae: SAE, unsafe: Sequence[Sample], config: GatedSaeConfig) -> list[Push]:
    """Latents active while the model refuses the archetype, clamped in the window without a gate; best first.

    All are tried at one value, the finalists at all. Cost for benign prompts does not count: the gate keeps it away.

    Raises:
        DataError: the model does not refuse the archetype, or no latent is active meanwhile.
    """
    site = site_of(sae, None)
    refusal = refuse_archetype(lm, config.archetype, config.max_new_tokens)
    active = [one.latent for one in latents_active(lm, sae, site, refusal)]
    if not active:
        raise DataError("No latent is active on two tokens of the refusal. Train the SAE longer, or with a larger k.")
    few, tried = (
        [one for group in by_set(unsafe).values() for one in group[:: -(-len(group) // count)]]
        for count in (config.first_prompts, config.tried_prompts)
    )

    def key(push: Push) -> tuple[float, float, float, int]:
        weakest = min(*push.refused.values(), config.enough)
        return -weakest, push.incoherent, push.strength, push.latent

    first = sorted(_pushes(lm, sae, site, active, config.first_strength, few, config), key=key)
    finalists = [push.latent for push in first[: config.finalists]]
    found = [push for value in config.strengths for push in _pushes(lm, sae, site, finalists, value, tried, config)]
    return [*sorted(found, key=key), *first[config.finalists :]]


def _pushes(
    lm: LanguageModel,
    sae: SAE,
    site: Site,
    latents: Sequence[int],
    value: float,
    tried: Sequence[Sample],
    config: GatedSaeConfig,
) -> list[Push]:
    """What each latent does at one value. All share batches: every row has its own latent clamped."""
    prompts = lm.prompt_ids([sample.messages for sample in tried])
    jobs = [(latent, place) for latent in latents for place in range(len(tried))]
    replies: dict[tuple[int, int], str] = {}
    for batch in batches_of([len(prompts[place]) for _, place in jobs], config.batch_size):
        rows = [jobs[i] for i in batch]
        chosen = [latent for latent, _ in rows]
        with steered(lm, clamp_each_row(sae, chosen, value, site, config.window)):
            made = lm.generate_ids([prompts[place] for _, place in rows], Sampling(config.max_new_tokens))
        for job, ids in zip(rows, made, strict=True):
            replies[job] = lm.tokenizer.decode(ids, skip_special_tokens=True)
    return [_push(latent, value, tried, [replies[latent, place] for place in range(len(tried))]) for latent in latents]


def _push(latent: int, value: float, tried: Sequence[Sample], replies: Sequence[str]) -> Push:
    broken = [is_incoherent(reply) for reply in replies]
    refused = [is_refusal(reply) and not was for reply, was in zip(replies, broken, strict=True)]
    of_set = {name: [i for i, one in enumerate(tried) if one.set == name] for name in by_set(tried)}
    shares = {name: sum(refused[i] for i in places) / len(places) for name, places in of_set.items()}
    return Push(latent, value, shares, sum(broken) / len(broken))


def prompt_features(
    lm: LanguageModel, saes: Sequence[SAE], prompts: Prompts, pools: Sequence[LatentPool]
) -> Float[Tensor, "prompt feature"]:
    """The pooled latents of prompts, pool after pool, in float64 on the CPU; as the gate reads them.

    Raises:
        DataError: a prompt is malformed or too long, or latents are not finite.
    """
    site, rows = site_of(saes[0], None), lm.prompt_ids(prompts)
    saes = [sae.on(lm.device) for sae in saes]
    found = torch.empty(len(rows), len(pools) * sum(sae.config.d_sae for sae in saes), dtype=torch.float64)
    for batch in batches_of([len(row) for row in rows], FORWARD_ROWS):
        tokens = lm.pad([rows[i] for i in batch])
        x = lm.activations(tokens, [site])[site].float()
        with torch.no_grad():
            counts = after_first(tokens.mask.bool(), positions_of(tokens.mask))
            found[batch] = pooled_latents(saes, x, counts, pools).flatten(1).double().cpu()
    if not found.isfinite().all():
        raise DataError("Latents are not finite. Load the model in float32 (float16 overflows easily).")
    return found


def _shown(push: Push) -> dict[str, Any]:
    shown = {"latent": push.latent, "strength": push.strength, "incoherent": push.incoherent}
    return {**shown, "refused": dict(push.refused)}
