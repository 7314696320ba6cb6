"""How far steering moves the model along a reply, token by token, and where it acted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from steer.models.hooks import Edit
from steer.models.model import LanguageModel
from steer.models.passes import Pass
from steer.models.roles import PromptIds
from steer.models.site import Site
from steer.models.tokens import Tokens, known
from steer.steering.intervention import Intervention
from steer.steering.steered import steered


@dataclass(frozen=True)
class Divergence:
    """The steered model against the unsteered one, both reading the same prompt and the same reply."""

    kl: Float[Tensor, " reply"]
    """``KL(steered || unsteered)`` of the distributions that each token of the reply is drawn from, at temperature 1,
    in nats."""
    logprob: Float[Tensor, " reply"]
    """Of each token of the reply where the model is steered, in nats."""
    logprob_unsteered: Float[Tensor, " reply"]
    change: Float[Tensor, " token"]
    """Norm of what was added at the steered sites, as a fraction of the norm of the residual stream there, for each
    token of prompt and reply; of several sites the largest."""
    control: Float[Tensor, "direction reply"]
    """``KL(control || unsteered)`` where a direction was added instead, at the same sites and with the same norm at
    each token."""


def divergence(
    lm: LanguageModel,
    interventions: Sequence[Intervention],
    prompt: PromptIds,
    reply: Sequence[int],
    directions: Float[Tensor, "direction d_model"],
) -> Divergence:
    """Run the model over a prompt and a reply, with the interventions, without, and with each direction; KL in float64.

    Raises:
        SiteError: the model lacks a site of an intervention.
        DataError: prompt and reply are longer than the model's context.
    """
    tokens = replace(lm.pad([[*prompt, *reply]]), prompts=known([prompt]))
    sites = list(dict.fromkeys(one.site for one in interventions))
    before: dict[Site, Tensor] = {}
    after: dict[Site, Tensor] = {}
    # hooks of a site run in the order in which they were put on
    with (
        lm.edited({site: _kept_in(before, site) for site in sites}),
        steered(lm, *interventions),
        lm.edited({site: _kept_in(after, site) for site in sites}),
    ):
        steered_logits = _logits(lm, tokens, len(prompt), len(reply))
    plain_logits = _logits(lm, tokens, len(prompt), len(reply))
    added = {site: (after[site] - before[site]).norm(dim=-1, keepdim=True) for site in before}
    control = torch.zeros(len(directions), len(reply), dtype=torch.float64)
    for row, direction in enumerate(directions):
        unit = (direction / direction.norm()).to(lm.device)
        with lm.edited({site: _adding(norms * unit) for site, norms in added.items()}):
            control_logits = _logits(lm, tokens, len(prompt), len(reply))
        for place in range(len(reply)):
            control[row, place] = _kl_at(place, control_logits, plain_logits)
    found = torch.zeros(3, len(reply), dtype=torch.float64)
    for place, token in enumerate(reply):  # one after another: a vocabulary in float64 is large
        ours, theirs = (logits[place].double().log_softmax(-1) for logits in (steered_logits, plain_logits))
        found[:, place] = torch.stack([kl(ours, theirs), ours[token], theirs[token]])
    return Divergence(found[0], found[1], found[2], _change(before, added, len(prompt) + len(reply)), control)


def _kl_at(place: int, ours: Float[Tensor, "reply vocab"], theirs: Float[Tensor, "reply vocab"]) -> Float[Tensor, ""]:
    return kl(ours[place].double().log_softmax(-1), theirs[place].double().log_softmax(-1))


def kl(p: Float[Tensor, " vocab"], q: Float[Tensor, " vocab"]) -> Float[Tensor, ""]:
    """``sum_v p_v (log p_v - log q_v)`` in nats, of two distributions given as log-probabilities."""
    weight = p.exp()
    return torch.where(weight > 0, weight * (p - q), 0.0).sum()  # what p rules out adds nothing, also where q does


def _kept_in(found: dict[Site, Tensor], site: Site) -> Edit:
    def keep(x: Tensor, at: Pass) -> Tensor:
        found[site] = x[0].float()
        return x

    return keep


def _adding(change: Float[Tensor, "token d_model"]) -> Edit:
    def add(x: Tensor, at: Pass) -> Tensor:
        return (x.float() + change).to(x.dtype)

    return add


def _logits(lm: LanguageModel, tokens: Tokens, prompt: int, reply: int) -> Float[Tensor, "reply vocab"]:
    """The logits that each token of the reply is drawn from."""
    lengths = torch.tensor([prompt], device=lm.device)
    return lm.forward(tokens, reply + 1, lengths)[0, -reply - 1 : -1]


def _change(before: dict[Site, Tensor], added: dict[Site, Tensor], length: int) -> Float[Tensor, " token"]:
    change = torch.zeros(length)
    for site, old in before.items():
        norms = old.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
        change = torch.maximum(change, (added[site][:, 0] / norms).cpu())
    return change
