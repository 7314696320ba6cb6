"""The activations of a few chosen latents, without those of all the others where they are not needed.

A latent's pre-activation needs one column of the encoder. Whether it is among the k largest needs the others, but not
all of them: it is not as soon as k others are found to be larger, and most latents are far from the k largest.
"""

import torch

from saes.kernels import cpu, kernels_for
from saes.shapes import Float, Int, Tensor

BLOCK = 1024  # latents looked at first
FEW_TOKENS = 256  # for which all latents are looked at one by one; for more, only the first are


def topk_activations(
    x: Float[Tensor, "token d_in"],
    centre: Float[Tensor, " d_in"] | None,
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    latents: Int[Tensor, "_ n"],
    k: int,
) -> Float[Tensor, "token n"]:
    """``relu((x - centre) . W_enc[:, i] + b_enc[i])`` for n latents, or 0 where k other latents have a larger one.

    ``latents`` are the same for all tokens (one row) or others for each; ``centre`` None: 0.
    """
    d_sae = W_enc.shape[1]
    recorded = torch.is_grad_enabled() and any(one.requires_grad for one in (x, W_enc, b_enc))
    if x.dtype == torch.float32 and not recorded and kernels_for(x.device) is cpu:
        # most tokens are decided by few latents: one by one costs less than products of blocks, unless many stay open
        seen = d_sae if len(x) <= FEW_TOKENS else min(BLOCK, d_sae)
        chosen, larger = cpu.chosen_activations(x, centre, W_enc, b_enc, latents, k, seen)
        if seen == d_sae:
            return chosen
        x = x if centre is None else x - centre
    else:
        x = x if centre is None else x - centre
        chosen = chosen_pre_activations(x, W_enc, b_enc, latents)
        seen, larger = 0, torch.where(chosen > 0, 0.0, float(k))
    return chosen * (larger_than(x, W_enc, b_enc, latents.expand(len(x), -1), chosen, k, larger, seen) < k)


def chosen_pre_activations(
    x: Float[Tensor, "token d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    latents: Int[Tensor, "_ n"],
) -> Float[Tensor, "token n"]:
    """``relu(x . W_enc[:, i] + b_enc[i])`` for n latents, the same for all tokens (one row) or others for each."""
    if len(latents) == 1:
        return torch.relu(x @ W_enc[:, latents[0]] + b_enc[latents[0]])
    columns = W_enc.T[latents]  # [token, n, d_in]
    return torch.relu(torch.bmm(columns, x.unsqueeze(-1)).squeeze(-1) + b_enc[latents])


def larger_than(
    x: Float[Tensor, "token d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    latents: Int[Tensor, "token n"],
    chosen: Float[Tensor, "token n"],
    k: int,
    larger: Float[Tensor, "token n"],
    start: int,
) -> Float[Tensor, "token n"]:
    """How many other latents have a larger pre-activation than each chosen one, counted until there are k.

    ``larger`` counts those before latent ``start``; of a chosen one that is not positive it is k. Blocks of latents
    are looked at until every token is decided.
    """
    larger, size = larger.clone(), BLOCK
    open_tokens = (larger < k).any(-1).nonzero().squeeze(-1)
    while start < W_enc.shape[1] and len(open_tokens):
        block = slice(start, start + size)
        whole = len(open_tokens) == len(x)
        rows, own = (x, chosen) if whole else (x[open_tokens], chosen[open_tokens])
        pre = torch.addmm(b_enc[block], rows, W_enc[:, block])
        counts = torch.stack([count_above(pre, one) for one in own.unbind(-1)], dim=-1)
        counts -= _itself(pre, own, (latents if whole else latents[open_tokens]) - start)
        larger[open_tokens] += counts
        open_tokens = open_tokens[(larger[open_tokens] < k).any(-1)]
        start, size = start + size, 2 * size  # what is not decided soon is likely to be among them, or near
    return larger


def _itself(
    pre: Float[Tensor, "token block"], own: Float[Tensor, "token n"], places: Int[Tensor, "token n"]
) -> Float[Tensor, "token n"]:
    """1 where a latent in the block counts as larger than itself, having been rounded otherwise."""
    inside = (places >= 0) & (places < pre.shape[-1])
    again = pre.gather(-1, places.clamp(0, pre.shape[-1] - 1))
    return (inside & (again > own)).to(own.dtype)


def count_above(pre: Float[Tensor, "*token d_sae"], threshold: Float[Tensor, "*token"]) -> Float[Tensor, "*token"]:
    """Number of pre-activations above a token's threshold.

    Written as floats: summing what a comparison gives as booleans takes ten times as long on a CPU.
    """
    above = torch.empty_like(pre, dtype=torch.float32)
    return torch.gt(pre.detach(), threshold.detach().unsqueeze(-1), out=above).sum(-1)
