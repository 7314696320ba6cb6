"""Directions of the residual stream found by comparing two sets of prompts."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steer.errors import DataError
from steer.models.chat import Conversation
from steer.models.model import LanguageModel
from steer.models.site import Site


def refusal_direction(
    lm: LanguageModel,
    site: Site | str,
    harmful: Sequence[str | Conversation],
    harmless: Sequence[str | Conversation],
) -> Float[Tensor, " d_model"]:
    """Difference in means at the last prompt token: harmful minus harmless (Arditi et al., arXiv 2406.11717).

    Returned at unit length, in float32. Means are taken in float64. ``site`` is a site or its name.

    Raises:
        SiteError: the name is no site, or the model lacks it.
        DataError: a set is empty, or the means do not differ.
    """
    if not harmful or not harmless:
        raise DataError(f"Both sets need prompts: got {len(harmful)} harmful and {len(harmless)} harmless.")
    site = Site.parse(site)
    difference = _mean_last(lm, site, harmful) - _mean_last(lm, site, harmless)
    norm = difference.norm()
    if not torch.isfinite(norm) or norm == 0:
        raise DataError(f"The activations of the two sets have no finite difference at {site}: got norm {norm.item()}.")
    return (difference / norm).float()


def _mean_last(lm: LanguageModel, site: Site, prompts: Sequence[str | Conversation], batch_size: int = 128) -> Tensor:
    rows = sorted(lm.prompt_ids(prompts), key=len)
    batches = [lm.pad(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size)]
    last = [lm.activations(tokens, [site])[site][:, -1] for tokens in batches]
    return torch.cat(last).double().mean(0)
