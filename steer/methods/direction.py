"""A refusal direction: difference in means, chosen over layers and positions as published (arXiv 2406.11717).

Candidates are the differences of mean activations, harmful less harmless, at the input of each layer and at each token
of the chat template that follows the user's words. Of those that change harmless prompts little when ablated and induce
refusal when added, the one whose ablation takes most of refusal away is chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from steer.checks import require_finite, require_whole
from steer.errors import DataError, PlanError
from steer.methods.fitted import FORWARD_ROWS, Fitted, about, check_prompts, last_states
from steer.models.batches import batches_of
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.responders.responder import Prompts
from steer.steering.direction_edits import DirectionEdit
from steer.steering.directions import EVERY_TOKEN, ablation, template_tokens
from steer.steering.intervention import Intervention
from steer.steering.steered import steered

Action = Literal["add", "ablate"]
_EPSILON = 1e-8


@dataclass(frozen=True)
class DirectionConfig:
    """How a refusal direction is chosen and used. The defaults are the paper's."""

    action: Action = "add"
    """``add`` it at its layer, which induces refusal; or ``ablate`` it everywhere, which takes refusal away."""
    strength: float = 1.0
    """Of ``add``, in multiples of the difference's own length."""
    train_prompts: int = 128
    """Prompts of each kind that means are taken of, at most."""
    validation_prompts: int = 32
    """Further prompts of each kind that candidates are measured on, at most (a fifth where there are few)."""
    positions: int | None = None
    """Last tokens of a prompt that are looked at; None: those of the chat template after the user's words."""
    refusal_starts: tuple[str, ...] = ("I",)
    """Texts whose first token begins a refusal."""
    max_kl: float = 0.1
    """Largest mean divergence of the next token on harmless prompts when ablated, in nats."""
    least_induced: float = 0.0
    """Least refusal score of harmless prompts when added."""
    depth: float = 0.8
    """Share of the model's layers that are looked at, from the first on."""

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise PlanError(f"action must be one of {', '.join(get_args(Action))}, got {self.action!r}.")
        for name in ("strength", "max_kl", "least_induced", "depth"):
            require_finite(name, getattr(self, name), PlanError)
        for name in ("train_prompts", "validation_prompts"):
            require_whole(name, getattr(self, name), PlanError)
        if self.positions is not None:
            require_whole("positions", self.positions, PlanError)
        if not 0 < self.depth <= 1:
            raise PlanError(f"depth is a share of the layers, above 0 and at most 1: got {self.depth}.")
        if not self.refusal_starts or not all(self.refusal_starts):
            raise PlanError("refusal_starts needs a text that refusals begin with, such as ('I',).")


@dataclass(frozen=True)
class Candidate:
    """A difference in means and what it does on validation prompts."""

    layer: int
    position: int
    """Of the token, counted from the prompt's end: -1 is the last."""
    direction: Float[Tensor, " d_model"]
    """At its own length, float64."""
    ablated: float
    """Refusal score of harmful prompts when it is ablated."""
    added: float
    """Refusal score of harmless prompts when it is added."""
    kl: float
    """Mean divergence of the next token on harmless prompts when it is ablated, in nats."""

    def row(self) -> dict[str, Any]:
        """As JSON data."""
        return {name: getattr(self, name) for name in ("layer", "position", "ablated", "added", "kl")} | {
            "norm": self.direction.norm().item()
        }


def fit(lm: LanguageModel, harmful: Prompts, harmless: Prompts, config: DirectionConfig | None = None) -> Fitted:
    """Choose a refusal direction.

    Raises:
        DataError: a set has fewer than two prompts, or no candidate passes the filters.
        SiteError: it is not known what the model's sublayers add to the stream, so nothing can be ablated there.
    """
    config = config or DirectionConfig()
    check_prompts(harmful=harmful, harmless=harmless)
    (bad, bad_held), (good, good_held) = (_split(prompts, config) for prompts in (harmful, harmless))
    candidates = _measured(lm, config, _differences(lm, config, bad, good), bad_held, good_held)
    passed = [one for one in candidates if one.kl < config.max_kl and one.added > config.least_induced]
    if not passed:
        raise DataError(
            f"None of {len(candidates)} candidates passes: {sum(one.kl < config.max_kl for one in candidates)} have a "
            f"divergence below {config.max_kl}, {sum(one.added > config.least_induced for one in candidates)} induce "
            f"refusal above {config.least_induced}. Give more prompts, refusal_starts that fit the model, or a larger "
            "max_kl."
        )
    chosen = min(passed, key=lambda one: one.ablated)
    record = {
        "method": "direction",
        "action": config.action,
        "strength": config.strength,
        "chosen": chosen.row(),
        "candidates": [one.row() for one in candidates],
        "train": {"harmful": about(bad), "harmless": about(good)},
        "validation": {"harmful": about(bad_held), "harmless": about(good_held)},
    }
    if config.action == "ablate":
        return Fitted(ablation(lm, chosen.direction), record)
    return Fitted((addition(Site(chosen.layer, "resid_pre"), chosen.direction, config.strength),), record)


def addition(site: Site, direction: Float[Tensor, " d_model"], strength: float = 1.0) -> DirectionEdit:
    """Add a direction at one site, at a multiple of its own length, to every token."""
    return DirectionEdit(site, direction, strength * direction.norm().item(), window=EVERY_TOKEN)


def refusal_score(logits: Float[Tensor, "prompt vocab"], starts: Sequence[int]) -> float:
    """Mean of ``log p - log(1 - p)`` with p the probability that the reply begins with one of these tokens."""
    p = logits.double().softmax(-1)[:, list(starts)].sum(-1)
    return ((p + _EPSILON).log() - (1 - p + _EPSILON).log()).mean().item()


def mean_kl(before: Float[Tensor, "prompt vocab"], after: Float[Tensor, "prompt vocab"]) -> float:
    """Mean of KL(before || after) of the next token, in nats."""
    p, q = before.double().log_softmax(-1), after.double().log_softmax(-1)
    terms = torch.where(p.isneginf(), 0.0, p.exp() * (p - q))  # what is ruled out before contributes nothing
    return terms.sum(-1).mean().item()


def _split(prompts: Prompts, config: DirectionConfig) -> tuple[Prompts, Prompts]:
    """Prompts to take means of, and others to measure candidates on."""
    if len(prompts) < 2:
        raise DataError("A direction needs at least two prompts of each kind: one to take it from, one to try it on.")
    held = min(config.validation_prompts, max(1, len(prompts) // 5))
    train = min(config.train_prompts, len(prompts) - held)
    return prompts[:train], prompts[train : train + held]


def _differences(
    lm: LanguageModel, config: DirectionConfig, harmful: Prompts, harmless: Prompts
) -> list[tuple[int, int, Tensor]]:
    """(layer, position, difference in means) of every candidate."""
    layers = range(max(1, int(config.depth * lm.n_layers)))
    sites = [Site(layer, "resid_pre") for layer in layers]
    count = config.positions or template_tokens(lm)
    bad, good = (last_states(lm, sites, prompts, count).mean(1) for prompts in (harmful, harmless))
    found = [(layer, place - count, (bad - good)[layer, place]) for layer in layers for place in range(count)]
    # before attention has seen the words, the template's tokens are alike in all prompts
    return [(layer, at, r) for layer, at, r in found if r.norm() > 1e-6 * bad[layer, at].norm()]


def _measured(
    lm: LanguageModel,
    config: DirectionConfig,
    differences: Sequence[tuple[int, int, Tensor]],
    harmful: Prompts,
    harmless: Prompts,
) -> list[Candidate]:
    starts = sorted({ids[0] for ids in lm.encode(config.refusal_starts)})
    bad, good = lm.prompt_ids(harmful), lm.prompt_ids(harmless)
    plain = _next_logits(lm, good)
    found = []
    for layer, position, r in differences:
        added = _next_logits(lm, good, addition(Site(layer, "resid_pre"), r))
        one = Candidate(
            layer=layer,
            position=position,
            direction=r,
            ablated=refusal_score(_next_logits(lm, bad, *ablation(lm, r)), starts),
            added=refusal_score(added, starts),
            kl=mean_kl(plain, _next_logits(lm, good, *ablation(lm, r))),
        )
        found.append(one)
    return found


def _next_logits(
    lm: LanguageModel, rows: Sequence[list[int]], *interventions: Intervention
) -> Float[Tensor, "prompt vocab"]:
    """Logits of the first token of each reply."""
    found: dict[int, Tensor] = {}
    with steered(lm, *interventions):
        for batch in batches_of([len(row) for row in rows], FORWARD_ROWS):
            logits = lm.forward(lm.pad([rows[i] for i in batch]), keep=1)[:, -1]
            found.update(zip(batch, logits.cpu(), strict=True))
    return torch.stack([found[i] for i in range(len(rows))])
