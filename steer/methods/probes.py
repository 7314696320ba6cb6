"""Linear probes on prompts, and thresholds that keep to a false-positive rate on prompts that they have not seen."""

from collections.abc import Sequence
from zlib import crc32

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steer.errors import DataError
from steer.evals.sample import CONTENT_TAGS, Sample, by_set
from steer.steering.gates import fit_threshold


def bounded_threshold(
    scores: Float[Tensor, " prompt"], samples: Sequence[Sample], benign: Sequence[Sample], rate: float
) -> float:
    """The least threshold above which at most this share of each set of ``benign`` prompts has its score."""
    places = {name: [i for i, one in enumerate(samples) if one.set == name] for name in by_set(benign)}
    return max(fit_threshold(scores[own], rate) for own in places.values())


def folds_of(samples: Sequence[Sample], folds: int, tags: Sequence[str] = CONTENT_TAGS) -> Int[Tensor, " prompt"]:
    """Which of ``folds`` each prompt is in, by what it is about: the same thing is never in two."""
    said = [one.about(tags) for one in samples]
    return torch.tensor([crc32(text.encode()) % folds for text in said])


def cross_scores(
    x: Float[Tensor, "prompt feature"],
    labels: Bool[Tensor, " prompt"],
    folds: Int[Tensor, " prompt"],
    penalty: float,
) -> Float[Tensor, " prompt"]:
    """The score of each prompt by a probe that was fitted on the other folds.

    Raises:
        DataError: outside a fold there is only one kind of prompts.
    """
    scores = torch.zeros(len(x), dtype=torch.float64)
    for fold in folds.unique():
        inside = folds == fold
        if labels[~inside].all() or not labels[~inside].any():
            raise DataError("Outside one part of the content all prompts are of one kind. Give more prompts.")
        weight, bias = fit_probe(x[~inside], labels[~inside], penalty)
        scores[inside] = x[inside] @ weight + bias
    return scores


def fit_probe(
    x: Float[Tensor, "prompt feature"], labels: Bool[Tensor, " prompt"], penalty: float, steps: int = 200
) -> tuple[Float[Tensor, " feature"], Float[Tensor, ""]]:
    """The minimum that ``saes.metrics.logistic.fit_logistic`` finds, balanced and standardised, by L-BFGS.

    Newton's method there solves for all pairs of features, which takes minutes for thousands of latents.
    """
    mean, spread = x.mean(0), x.std(0, correction=0)
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    rows, y, n = (x - mean) / spread, labels.double(), len(x)
    weights = torch.where(labels, n / (2 * labels.sum()), n / (2 * (~labels).sum())).double()
    with torch.enable_grad():
        w = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS(
            [w], max_iter=steps, history_size=20, line_search_fn="strong_wolfe", tolerance_change=1e-10
        )

        def loss() -> Tensor:
            optimiser.zero_grad()
            logits = rows @ w[:-1] + w[-1]
            value = torch.nn.functional.binary_cross_entropy_with_logits(logits, y, weights, reduction="sum")
            value = value + penalty / 2 * w[:-1].square().sum()
            value.backward()
            return value

        optimiser.step(loss)
    weight = w.detach()[:-1] / spread
    return weight, w.detach()[-1] - weight @ mean
