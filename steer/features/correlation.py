"""``correlation``: latents whose activation on generated tokens goes with refusing (CorrSteer, arXiv 2508.12535).

The model answers prompts, each latent's activations are pooled over a reply, and Pearson's correlation of that with the
outcome is taken, one batch of replies after another, so that no activations are kept.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saes import SAE
from steer.errors import DataError
from steer.features.search import Found, Search, best
from steer.features.states import READ_ROWS, latents_of
from steer.models.batches import batches_of
from steer.models.model import LanguageModel
from steer.models.site import Site

Pooling = Literal["max", "mean"]


def find(search: Search) -> list[Found]:
    """Latents by the correlation (-1 to 1) of their largest activation on a reply with its being a refusal.

    Raises:
        DataError: the replies are all refusals, or none is.
    """
    replies, stream = search.replies, Correlation(search.sae.config.d_sae)
    sae = search.sae.on(search.lm.device)
    with search.progress.stage("correlation: activations", len(replies)):
        for batch in batches_of([len(one.prompt_ids) + len(one.reply_ids) for one in replies], READ_ROWS):
            some = [replies[i] for i in batch]
            add_replies(
                [stream],
                search.lm,
                [sae],
                [search.site],
                [one.prompt_ids for one in some],
                [one.reply_ids for one in some],
                [one.refused for one in some],
            )
            search.progress.advance(len(some))
    if stream.right in (0, stream.n):
        raise DataError(
            f"{stream.right} of {stream.n} replies are refusals, so nothing can go with it. Give prompts of which the "
            "model refuses some and answers others."
        )
    pearson, means = stream.pearson().tolist(), stream.mean_where_right().tolist()
    told = f"over {stream.n} replies, {stream.right} of them refusals"
    rows = [
        (r, latent, f"r = {r:+.3f} {told}; mean in refusals {means[latent]:.3g}")
        for latent, r in enumerate(pearson)
        if r > 0
    ]
    return best(rows, search.limit)


class Correlation:
    """Pearson's correlation of many activations with an outcome, one batch after another (Chan et al., 1979)."""

    def __init__(self, latents: int) -> None:
        self.n = 0
        self.right = 0
        self._mean = torch.zeros(latents, dtype=torch.float64)
        self._squares = torch.zeros(latents, dtype=torch.float64)
        self._products = torch.zeros(latents, dtype=torch.float64)
        self._right_sum = torch.zeros(latents, dtype=torch.float64)
        self._outcome_mean = 0.0
        self._outcome_squares = 0.0

    def add(self, activations: Float[Tensor, "reply latent"], right: Bool[Tensor, " reply"]) -> None:
        """Take in some replies."""
        a, y, new = activations.double().cpu(), right.double().cpu(), len(right)
        if not new:
            return
        mean, outcome = a.mean(0), y.mean().item()
        weight = self.n * new / (self.n + new)
        gap, outcome_gap = mean - self._mean, outcome - self._outcome_mean
        self._squares += (a - mean).square().sum(0) + gap.square() * weight
        self._outcome_squares += (y - outcome).square().sum().item() + outcome_gap**2 * weight
        self._products += ((a - mean) * (y - outcome).unsqueeze(-1)).sum(0) + gap * outcome_gap * weight
        self._right_sum += y @ a
        self.n += new
        self.right += int(y.sum().item())
        self._mean += gap * new / self.n
        self._outcome_mean += outcome_gap * new / self.n

    def pearson(self) -> Float[Tensor, " latent"]:
        """The correlation of each latent, from -1 to 1; 0 where it or the outcome never varies."""
        scale = (self._squares * self._outcome_squares).sqrt()
        return torch.where(scale > 0, self._products / scale.clamp_min(1e-300), 0.0).clamp(-1, 1)

    def mean_where_right(self) -> Float[Tensor, " latent"]:
        """The mean activation on right replies."""
        return self._right_sum / max(1, self.right)


def add_replies(
    streams: Sequence[Correlation],
    lm: LanguageModel,
    saes: Sequence[SAE],
    sites: Sequence[Site],
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    outcomes: Sequence[bool],
    pooling: Pooling = "max",
) -> None:
    """Take a batch of replies into the stream of each SAE; empty ones, which have no token to read, are left out."""
    spoken = [row for row, ids in enumerate(replies) if ids]
    if not spoken:
        return
    states = lm.activations(lm.pad([[*prompts[row], *replies[row]] for row in spoken]), sites)
    told = torch.tensor([outcomes[row] for row in spoken])
    for sae, site, stream in zip(saes, sites, streams, strict=True):
        pooled = [_pooled(sae, x[-len(replies[row]) :], pooling) for row, x in zip(spoken, states[site], strict=True)]
        stream.add(torch.stack(pooled), told)


def _pooled(sae: SAE, x: Float[Tensor, "token d_model"], pooling: Pooling) -> Float[Tensor, " latent"]:
    dense = latents_of(sae, x)
    return dense.amax(0) if pooling == "max" else dense.mean(0)
