"""Giving the residual stream a norm of the usual size, without changing what the model computes."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from steer.activations.stream import activation_rows
from steer.models.model import LanguageModel
from steer.models.site import Site

SITE = Site(1)


@torch.no_grad()
def rescale(lm: LanguageModel, texts: Sequence[Sequence[int]]) -> float:
    """Scale what is written to the residual stream so that its mean norm after layer 1 is near sqrt(d_model).

    Everything that reads the stream normalises it first, so the function stays the same: embedding and sublayer outputs
    are multiplied by a factor, and the weight of the final norm is divided by it, because the tied output embedding was
    multiplied too. The factor is a power of two, so no bit of precision is lost. Strengths of steering, which are
    lengths in the stream, are then of the size that is usual for published models. Returns the factor.
    """
    norm = torch.cat([rows.norm(dim=-1) for rows in activation_rows(lm, SITE, texts)]).mean().item()
    factor = 2.0 ** round(math.log2(math.sqrt(lm.d_model) / norm))
    body: Any = lm.model.model
    config: Any = lm.model.config
    body.embed_tokens.weight.mul_(factor)
    for block in body.layers:
        block.self_attn.o_proj.weight.mul_(factor)
        block.mlp.down_proj.weight.mul_(factor)
    body.norm.weight.div_(factor)
    config.rms_norm_eps *= factor**2  # what the norms add to the variance scales with it
    for module in body.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon *= factor**2
    return factor
