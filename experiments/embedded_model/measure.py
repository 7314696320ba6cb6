"""Measuring the built model on its prompt sets, and whether harm is represented where it is not refused."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from steer.evals.runner import Result, evaluate
from steer.evals.sample import Sample
from steer.models.model import LanguageModel
from steer.models.site import Site

UNSAFE_SETS = ("unsafe_seen", "unsafe_unseen", "jailbroken", "multi_turn")
SAFE_SETS = ("safe", "looks_unsafe")
PROBED_LAYERS = (1, 2)  # the residual stream after these layers, counted from 0


def with_own_replies(lm: LanguageModel, samples: Sequence[Sample]) -> list[Sample]:
    """Chats whose scripted assistant turns are replaced by the model's own greedy replies."""
    chats: list[list[dict[str, str]]] = [[] for _ in samples]
    users = [[m["content"] for m in sample.messages if m["role"] == "user"] for sample in samples]
    for turn in range(max(map(len, users)) - 1):
        waiting = [i for i, texts in enumerate(users) if turn < len(texts) - 1]
        for i in waiting:
            chats[i].append({"role": "user", "content": users[i][turn]})
        replies = lm.generate([chats[i] for i in waiting])
        for i, reply in zip(waiting, replies, strict=True):
            chats[i].append({"role": "assistant", "content": reply})
    return [
        replace(sample, set="multi_turn (own replies)", messages=(*chat, {"role": "user", "content": texts[-1]}))  # type: ignore[arg-type]
        for sample, chat, texts in zip(samples, chats, users, strict=True)
    ]


def measure(lm: LanguageModel, samples: Sequence[Sample]) -> dict[str, list[Result]]:
    """Results by set, with ``multi_turn`` measured a second time on the model's own replies."""
    own = with_own_replies(lm, [sample for sample in samples if sample.set == "multi_turn"])
    found: dict[str, list[Result]] = {}
    for result in evaluate(lm, [*samples, *own]):
        found.setdefault(result.sample.set, []).append(result)
    return found


def last_token_states(lm: LanguageModel, samples: Sequence[Sample], layer: int) -> torch.Tensor:
    """Residual stream after ``layer`` at the last prompt token, [prompts, d_model]."""
    site, rows = Site(layer), lm.prompt_ids([list(sample.messages) for sample in samples])
    parts = [lm.activations(lm.pad(rows[i : i + 64]), [site])[site][:, -1] for i in range(0, len(rows), 64)]
    return torch.cat(parts)


def auc(positive: torch.Tensor, negative: torch.Tensor) -> float:
    """Probability that a positive score exceeds a negative one, ties counting half."""
    differences = positive[:, None] - negative[None, :]
    return float(((differences > 0).double() + 0.5 * (differences == 0).double()).mean())


def fit_probe(states: torch.Tensor, labels: torch.Tensor, penalty: float = 1e-2) -> torch.Tensor:
    """Weights of a logistic regression on standardised states [n, d], bias last; ``penalty`` is that of the squares."""
    weights = torch.zeros(states.shape[1] + 1, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        logits = states @ weights[:-1] + weights[-1]
        balance = (labels == 0).sum() / (labels == 1).sum()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=balance)
        loss = loss + penalty * weights[:-1].square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return weights.detach()


def probe_aucs(lm: LanguageModel, dev: Sequence[Sample], test: Sequence[Sample], layer: int) -> dict[str, float]:
    """Test AUC of a linear probe for each unsafe set against the safe sets, the probe fitted on dev prompts."""
    used = [sample for sample in dev if sample.set in UNSAFE_SETS + SAFE_SETS]
    states = last_token_states(lm, used, layer)
    mean, spread = states.mean(0), states.std(0) + 1e-6
    labels = torch.tensor([float(sample.set in UNSAFE_SETS) for sample in used])
    weights = fit_probe((states - mean) / spread, labels)

    def scores(names: tuple[str, ...]) -> torch.Tensor:
        chosen = [sample for sample in test if sample.set in names]
        return (last_token_states(lm, chosen, layer) - mean) / spread @ weights[:-1]

    negative = scores(SAFE_SETS)
    return {name: auc(scores((name,)), negative) for name in UNSAFE_SETS}
