"""What a language model loses when an SAE's reconstruction replaces its activations."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saes import SAE
from steer.checks import require_whole
from steer.errors import DataError
from steer.models.hooks import Edit
from steer.models.model import LanguageModel, Tokens
from steer.models.passes import Pass, after_first
from steer.models.site import Site


@dataclass(frozen=True)
class SpliceLoss:
    """Cross-entropy in nats per token: of the model as it is, with the reconstruction, and with zeros instead."""

    plain: float
    spliced: float
    zeroed: float

    @property
    def recovered(self) -> float:
        """Share of the loss, between zeros and the model as it is, that the reconstruction wins back (1 is perfect).

        NaN where zeros cost nothing.
        """
        cost = self.zeroed - self.plain
        return (self.zeroed - self.spliced) / cost if cost else float("nan")


def splice_loss(
    lm: LanguageModel, sae: SAE, site: Site | str, texts: Sequence[Sequence[int]], batch_size: int = 32
) -> SpliceLoss:
    """Measure on texts, at a site or its name; the first token's activations are left as they are, as in training.

    Raises:
        DataError: there is no text of at least two tokens, or ``batch_size`` is below 1.
        SiteError: the name is no site, or the model lacks it.
    """
    site = Site.parse(site)
    require_whole("batch_size", batch_size, DataError)
    if not any(len(ids) > 1 for ids in texts):
        raise DataError("The loss with the reconstruction needs texts of at least two tokens: got none.")

    def reconstruct(x: Float[Tensor, "batch seq d_model"], at: Pass) -> Float[Tensor, "batch seq d_model"]:
        return _where_trained(x, sae(x.float()).to(x.dtype), at)

    def zero(x: Float[Tensor, "batch seq d_model"], at: Pass) -> Float[Tensor, "batch seq d_model"]:
        return _where_trained(x, torch.zeros_like(x), at)

    sae = sae.on(lm.device)
    ordered = sorted(texts, key=len)
    batches = [lm.pad(ordered[start : start + batch_size]) for start in range(0, len(ordered), batch_size)]
    losses = [_loss(lm, batches, {}), _loss(lm, batches, {site: reconstruct}), _loss(lm, batches, {site: zero})]
    return SpliceLoss(*losses)


def _where_trained(x: Tensor, new: Tensor, at: Pass) -> Tensor:
    return torch.where(after_first(at.real, at.positions).unsqueeze(-1), new, x)


def _loss(lm: LanguageModel, batches: Sequence[Tokens], edits: dict[Site, Edit]) -> float:
    """Mean cross-entropy over all real tokens but the first of each text."""
    total, count = 0.0, 0
    for tokens in batches:
        with lm.edited(edits):
            logprobs = lm.forward(tokens).float().log_softmax(-1)
        targets = tokens.ids[:, 1:]
        scores = logprobs[:, :-1].gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        counted = tokens.mask[:, 1:] * tokens.mask[:, :-1]
        total -= (scores * counted).double().sum().item()
        count += int(counted.sum())
    return total / count
