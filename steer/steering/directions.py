"""Directions of the residual stream found by comparing two sets of prompts."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steer.errors import DataError
from steer.models.chat import Conversation, Message
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.steering.direction_edits import DirectionEdit
from steer.steering.intervention import Intervention
from steer.steering.window import Window

EVERY_TOKEN = Window(first_token=True)  # arXiv 2406.11717 leaves no token out


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


def ablation(lm: LanguageModel, direction: Float[Tensor, " d_model"]) -> tuple[Intervention, ...]:
    """Project a direction out of every layer's input and of all that attention and MLP add, at every token."""
    sites = [Site(layer, part) for layer in range(lm.n_layers) for part in ("resid_pre", "attn_out", "mlp_out")]
    return tuple(DirectionEdit(site, direction, 0.0, "project_out", window=EVERY_TOKEN) for site in sites)


def template_tokens(lm: LanguageModel) -> int:
    """How many tokens of a prompt follow the user's words: those that prompts of other words have in common."""
    first, second = lm.prompt_ids([[Message(role="user", content=text)] for text in ("one", "22?")])
    shared = 0
    while shared < min(len(first), len(second)) and first[-1 - shared] == second[-1 - shared]:
        shared += 1
    return max(1, shared)
