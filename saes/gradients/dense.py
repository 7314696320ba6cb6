"""Gradients of SAEs whose number of active latents is not given, by plain dense autograd: ``relu`` and ``jumprelu``."""

import torch

from saes.gradients.gradients import Gradients, facts_of_all
from saes.jumprelu import active, jumprelu
from saes.losses import auxk, spread, variance_of
from saes.shapes import Float, Tensor
from saes.training import Training, weights


def dense_gradients(
    training: Training, x: Float[Tensor, "token d_in"], target: Float[Tensor, "token d_out"]
) -> Gradients:
    """See ``saes.gradients.gradients``."""
    sae = training.sae
    variance = variance_of(target, training.world.data)
    tokens = training.tokens_of(x)
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights(sae).items()}
    with torch.enable_grad():
        fvu, loss, latents = _loss(training, leaves, x, target, variance, tokens)
        active_latents = (latents.detach() > 0).sum().item()
        facts = facts_of_all(training.world, fvu.item(), loss.item(), active_latents, tokens)
        finite = facts.loss < float("inf")
        of = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)) if finite else {}
    fired = (latents.detach() > 0).any(0)
    radial = (of["W_dec"] * sae.W_dec.data).sum(-1) if finite else torch.zeros_like(sae.b_enc.data)
    return Gradients(facts, {name: grad.contiguous() for name, grad in of.items()}, radial, fired, tokens)


def _loss(
    training: Training,
    w: dict[str, Tensor],
    x: Float[Tensor, "token d_in"],
    target: Float[Tensor, "token d_out"],
    variance: float,
    tokens: int,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, "token d_sae"]]:
    """The FVU, all losses together, and the latents: each loss is this rank's part of that of the whole batch."""
    sae, config = training.sae.config, training.config
    pre = torch.relu(_product(training, w, x - w["b_dec"] if sae.subtract_b_dec else x) + w["b_enc"])
    if sae.activation == "jumprelu":
        latents = jumprelu(pre, w["threshold"], config.jumprelu_bandwidth)
        count = active(pre, w["threshold"], config.jumprelu_bandwidth).sum() / tokens
        penalty = config.l0_weight * count
    else:
        latents = pre
        penalty = config.l1_weight * latents.sum() / tokens / sae.d_in**0.5

    def reconstructed(width: int) -> Tensor:
        out = latents[:, :width] @ w["W_dec"][:width] + w["b_dec"]
        return out + x @ w["W_skip"] if sae.skip else out

    whole = reconstructed(sae.d_sae)
    fvu = (whole - target).square().sum() / variance
    loss = fvu + training.sparsity * penalty
    for width in sae.prefixes[:-1]:
        loss = loss + (reconstructed(width) - target).square().sum() / variance
    residual = target - whole.detach()
    left = spread(residual, training.world.data) if config.auxk_weight else 0.0
    if left:
        k_aux = max(1, sae.d_in // 2)
        loss = loss + config.auxk_weight * auxk(residual, pre, training.dead, w["W_dec"], k_aux, left)
    return fvu, loss, latents


def _product(training: Training, w: dict[str, Tensor], read: Float[Tensor, "token d_in"]) -> Tensor:
    """The encoder's product, in the dtype that the config says, given in float32."""
    if training.config.compute_dtype == "bfloat16":
        return (read.bfloat16() @ w["W_enc"].bfloat16().T).float()
    return read @ w["W_enc"].T
