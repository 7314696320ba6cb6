"""The activations of a few chosen latents, without those of all the others where they are not needed.

A latent's pre-activation needs one column of the encoder. Whether it is among the k largest needs the others, but not
all of them: it is not as soon as k others are found to be larger, and most latents are far from the k largest.
"""

import torch

from saes.shapes import Bool, Float, Int, Tensor

BLOCK = 1024  # latents looked at together


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
    return torch.relu(torch.einsum("td,tnd->tn", x, columns) + b_enc[latents])


def among_largest(
    x: Float[Tensor, "token d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    latents: Int[Tensor, "_ n"],
    chosen: Float[Tensor, "token n"],
    k: int,
) -> Bool[Tensor, "token n"]:
    """Whether fewer than k other latents have a larger pre-activation; ``chosen`` holds those of the latents asked for.

    What is not positive counts as not among them. Blocks of latents are looked at until every token is decided.
    """
    latents = latents.expand(len(x), -1)
    larger = torch.zeros_like(chosen)
    open_tokens = (chosen > 0).any(-1).nonzero().squeeze(-1)
    for start in range(0, W_enc.shape[1], BLOCK):
        if not len(open_tokens):
            break
        whole = len(open_tokens) == len(x)
        rows, own = (x, chosen) if whole else (x[open_tokens], chosen[open_tokens])
        pre = torch.addmm(b_enc[start : start + BLOCK], rows, W_enc[:, start : start + BLOCK])
        counts = torch.stack([count_above(pre, one) for one in own.unbind(-1)], dim=-1)
        counts -= _itself(pre, own, (latents if whole else latents[open_tokens]) - start)
        larger[open_tokens] += counts
        undecided = ((larger[open_tokens] < k) & (own > 0)).any(-1)
        open_tokens = open_tokens[undecided]
    return (larger < k) & (chosen > 0)


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
