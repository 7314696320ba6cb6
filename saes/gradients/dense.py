"""Gradients of SAEs whose number of active latents is not given, by plain dense autograd: ``relu`` and ``jumprelu``.

Where latents are divided over ranks, each computes its own, and reconstructions are summed over the shards: the sum's
gradient is that of each part of it. What a shard's encoder says of ``b_dec`` is summed likewise.
"""

from collections.abc import Mapping
from typing import Any

import torch

from saes.distributed.group import Group
from saes.distributed.select import topk_of_shards
from saes.gradients.gradients import Gradients, facts_of_all
from saes.jumprelu import active, jumprelu
from saes.losses import auxk, k_aux_of, spread, variance_of
from saes.shapes import Float, Tensor
from saes.training import Training, weights

READ = "b_dec as the encoder reads it"  # a leaf of its own: its gradient is of this shard's latents alone


def dense_gradients(
    training: Training, x: Float[Tensor, "token d_in"], target: Float[Tensor, "token d_out"]
) -> Gradients:
    """See ``saes.gradients.gradients``."""
    sae, shards = training.sae, training.world.latents
    variance = variance_of(target, training.world.data)
    tokens = training.tokens_of(x)
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights(sae).items()}
    if sae.config.subtract_b_dec:
        leaves[READ] = sae.b_dec.detach().requires_grad_()
    with torch.enable_grad():
        fvu, penalty, more, latents = _loss(training, leaves, x, target, variance.to(target.dtype), tokens)
        grads = torch.autograd.grad(fvu + training.sparsity * penalty + more, list(leaves.values()))
    loss = fvu.detach() + training.sparsity * shards.sum_(penalty.detach().clone()) + more.detach()
    on = latents.detach() > 0
    facts = facts_of_all(training.world, fvu.detach(), loss, on.sum(), tokens, variance)
    of = {name: grad.contiguous() for name, grad in zip(leaves, grads, strict=True)}
    if READ in of:
        of["b_dec"] = of["b_dec"] + shards.sum_(of.pop(READ))
    return Gradients(facts, of, (of["W_dec"] * sae.W_dec.data).sum(-1), on.any(0), tokens)


def _loss(
    training: Training,
    w: Mapping[str, Tensor],
    x: Float[Tensor, "token d_in"],
    target: Float[Tensor, "token d_out"],
    variance: Float[Tensor, ""],
    tokens: int,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, "token n"]]:
    """The FVU, the penalty of this shard's latents, the other losses, and the latents.

    Each loss is this rank's part of that of the whole batch.
    """
    sae, config, shards = training.sae.config, training.config, training.world.latents
    pre = torch.relu(_product(training, w, x - w[READ] if sae.subtract_b_dec else x) + w["b_enc"])
    if sae.activation == "jumprelu":
        latents = jumprelu(pre, w["threshold"], config.jumprelu_bandwidth)
        count = active(pre, w["threshold"], config.jumprelu_bandwidth).sum() / tokens
        penalty = config.l0_weight * count
    else:
        latents = pre
        penalty = config.l1_weight * latents.sum() / tokens / sae.d_in**0.5

    def reconstructed(width: int) -> Tensor:
        own = max(0, min(width, training.latents.stop) - training.latents.start)
        out = _over_shards(latents[:, :own] @ w["W_dec"][:own], shards) + w["b_dec"]
        return out + x @ w["W_skip"] if sae.skip else out

    whole = reconstructed(sae.d_sae)
    fvu = (whole - target).square().sum() / variance
    more = torch.zeros_like(fvu)
    for width in sae.prefixes[:-1]:
        more = more + (reconstructed(width) - target).square().sum() / variance
    if config.auxk_weight:
        more = more + config.auxk_weight * _auxk(training, w["W_dec"], target - whole.detach(), pre)
    return fvu, penalty, more, latents


def _auxk(
    training: Training,
    W_dec: Float[Tensor, "n d_out"],
    residual: Float[Tensor, "token d_out"],
    pre: Float[Tensor, "token n"],
) -> Float[Tensor, ""]:
    """The AuxK loss (``saes.losses.auxk``) of the dead latents of all shards."""
    shards = training.world.latents
    k_aux = k_aux_of(training.sae.config.d_in, int(shards.total(training.most_dead)))
    if not k_aux:
        return residual.new_zeros(())
    left = spread(residual, training.world.data).to(residual.dtype)
    something = left != 0  # the living may leave nothing to reconstruct
    left = torch.where(something, left, 1.0)
    if shards.alone:
        loss = auxk(residual, pre, training.dead, W_dec, k_aux, left)
    else:
        own = torch.where(training.dead, pre.detach(), 0.0)
        missing = max(0, k_aux - own.shape[1])  # a shard may have fewer latents than are chosen
        values, indices = own.topk(k_aux - missing, dim=-1, sorted=False)
        values, indices = (torch.nn.functional.pad(one, (0, missing)) for one in (values, indices))
        indices, values = topk_of_shards(indices, values, k_aux, shards)
        chosen = torch.zeros_like(own).scatter_reduce_(-1, indices, (values > 0).to(own.dtype), "amax")
        error = _over_shards((pre * chosen) @ W_dec, shards) - residual
        loss = error.square().sum() / left
    return torch.where(something, loss, 0.0)


class _Summed(torch.autograd.Function):
    """A sum over ranks that each go on with it in the same way: what is said of the sum is said of each part."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, shards: Group) -> Tensor:
        return shards.sum_(part.clone())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def _over_shards(part: Float[Tensor, "token d_out"], shards: Group) -> Float[Tensor, "token d_out"]:
    """The sum of the parts of all shards; the same bits on each."""
    return part if shards.alone else _Summed.apply(part, shards)


def _product(training: Training, w: Mapping[str, Tensor], read: Float[Tensor, "token d_in"]) -> Tensor:
    """The encoder's product, in the dtype that the config says, given in float32."""
    if training.config.compute_dtype == "bfloat16":
        return (read.bfloat16() @ w["W_enc"].bfloat16().T).float()
    return read @ w["W_enc"].T
