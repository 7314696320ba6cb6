"""Gradients of top-k SAEs without any dense one, for ``topk`` and ``batch_topk``.

Only the encoder's product touches every latent of every token. The loss is a sum of terms, each a reconstruction from a
few active latents: one for each prefix (Matryoshka), one with 4 k latents (multi-top-k), one of the residual by dead
latents (AuxK). The gradients are those that autograd gives for ``saes.losses``; the tests compare every one.

Where latents are divided over ranks, ``indices`` count within this rank's, selections are made over all, and each
reconstruction is summed over the shards; where tokens are, a loss and a gradient are this rank's part of the batch's.
"""

import math
from dataclasses import dataclass
from types import ModuleType

import torch

from saes.auxk import AuxK, auxk
from saes.distributed.select import topk_of_shards
from saes.gradients.gradients import Gradients, facts_of_all
from saes.kernels import kernels_for
from saes.kernels.eager import Reconstruction
from saes.losses import k_aux_of, spread, variance_of
from saes.select import Selected, batch_topk
from saes.shapes import Float, Int, Tensor
from saes.training import Training

MULTI = 4  # times k latents are active in multi-top-k (arXiv 2406.04093, section 5.3)


@dataclass(frozen=True)
class Term:
    """One reconstruction: the active latents of each token, and what the loss says of them."""

    indices: Int[Tensor, "token k"]
    values: Float[Tensor, "token k"]
    grads: Float[Tensor, "token k"]
    """Gradient with respect to the values, zero where the ReLU is flat: a latent at zero learns nothing."""
    g: Float[Tensor, "token d_out"]
    """Gradient with respect to their reconstruction."""
    loss: Float[Tensor, ""]
    """By its weight."""
    biased: bool
    """Whether the bias (and the linear map of a skip transcoder) is part of the reconstruction."""


def sparse_gradients(
    training: Training, x: Float[Tensor, "token d_in"], target: Float[Tensor, "token d_out"]
) -> Gradients:
    """See ``saes.gradients.gradients``."""
    sae, config, world = training.sae, training.config, training.world
    kernels = kernels_for(x.device)
    variance, tokens = variance_of(target, world.data, kernels.variance), training.tokens_of(x)
    read = x - sae.b_dec if sae.config.subtract_b_dec else x
    goal = target - x @ sae.W_skip.data if sae.config.skip else target
    # the fused selection gives the active latents of one process; shards, and some losses, need all pre-activations
    sharing = world.latents if sae.config.activation == "topk" else world.all  # those who select together
    fused = sharing.alone and not config.multi_topk_weight and config.compute_dtype == "float32"
    pre = None if fused else training.pre_activations(read)

    (indices, values), least = _selected(training, kernels, read, pre, training.k, tokens)
    main = _term(training, kernels, (indices, values), goal, 1.0, variance)
    terms = [main]
    for width in sae.config.prefixes[:-1]:
        inside = _inside(indices, values, width - training.latents.start)
        terms.append(_term(training, kernels, inside, goal, 1.0, variance))
    if config.multi_topk_weight:
        many, _ = _selected(training, kernels, read, pre, min(MULTI * training.k, sae.config.d_sae), tokens)
        terms.append(_term(training, kernels, many, goal, config.multi_topk_weight, variance))
    residual, aux = main.g * (-variance / 2), None
    if pre is None or world.latents.alone:
        aux = _auxk(training, kernels, read, residual)
    else:
        terms += _auxk_of_shards(training, kernels, pre, residual)

    active = values > 0
    loss = sum((term.loss for term in terms[1:]), main.loss)
    loss = loss + aux.loss if aux else loss
    facts = facts_of_all(world, main.loss, loss, active.sum(), tokens, variance)
    width = len(training.latents)  # a place for the pairs that are not active, which is dropped
    fired = torch.zeros(width + 1, dtype=torch.bool, device=x.device)
    fired = fired.scatter_(0, torch.where(active, indices, width).flatten(), True)[:width]
    of = _summed(training, kernels, terms, aux, x, read)
    return Gradients(facts, of, training.grads.radial, fired, tokens, least, training.grads.squares)


def _selected(
    training: Training,
    kernels: ModuleType,
    read: Float[Tensor, "token d_in"],
    pre: Float[Tensor, "token d_sae"] | None,
    k: int,
    tokens: int,
) -> tuple[Selected, Float[Tensor, ""] | None]:
    """The active latents of each token, none negative, and the least value kept by ``batch_topk``."""
    sae = training.sae
    encoder = (sae.W_enc.data, sae.b_enc.data)
    if pre is None and sae.config.activation == "batch_topk":
        return kernels.encode_batch_topk(read, *encoder, k, training.memory)
    if pre is None:
        indices, values = kernels.encode_topk(read, *encoder, k, training.config.selection, training.memory)
        return (indices, values.relu_()), None
    if sae.config.activation == "batch_topk":
        return batch_topk(pre, k, kernels.topk, tokens, training.world.all)
    return _largest(training, kernels, pre, k, min(k, pre.shape[1])), None


def _counting_is_free(x: Tensor) -> bool:
    """Whether a size may be counted out of a tensor: it would wait for a GPU."""
    return x.device.type == "cpu"


def _inside(indices: Int[Tensor, "token n"], values: Float[Tensor, "token n"], width: int) -> Selected:
    """The active latents below ``width``, without the last columns that have none (many, if latents rise in a row)."""
    values = values * (indices < width)
    if not _counting_is_free(values):
        return indices, values
    columns = int(values.any(0).nonzero().max()) + 1 if values.any() else 1
    return indices[:, :columns], values[:, :columns]


def _largest(
    training: Training, kernels: ModuleType, pre: Float[Tensor, "token n"], k: int, candidates: int
) -> Selected:
    """The ``k`` largest of each token, none negative; of a shard, those of its ``candidates`` that are among them."""
    shards = training.world.latents
    if shards.alone:
        indices, values = kernels.topk(pre, k)
        return indices, values.relu_()
    indices, values = kernels.topk(pre, min(candidates, pre.shape[1]))
    missing = candidates - values.shape[1]  # a shard may have fewer than others
    values = torch.nn.functional.pad(values, (0, missing), value=-math.inf)
    return topk_of_shards(torch.nn.functional.pad(indices, (0, missing)), values, k, shards)


def _term(
    training: Training,
    kernels: ModuleType,
    active: Selected,
    goal: Float[Tensor, "token d_out"],
    weight: float | Float[Tensor, ""],
    variance: Float[Tensor, ""],
    biased: bool = True,
) -> Term:
    """The reconstruction of ``goal``; its loss is ``weight`` times the squared error over ``variance``."""
    indices, values = active
    bias = training.sae.b_dec.data if biased else None
    made = _reconstructed(training, kernels, active, bias, goal, 2 * weight / variance)
    loss = weight * made.squares.sum() / variance
    return Term(indices, values, made.grads * (values > 0), made.g, loss, biased)


def _reconstructed(
    training: Training,
    kernels: ModuleType,
    active: Selected,
    bias: Float[Tensor, " d_out"] | None,
    goal: Float[Tensor, "token d_out"],
    scale: Float[Tensor, ""],
) -> Reconstruction:
    """See ``saes.kernels.eager.reconstruct``; the reconstruction is that of all shards."""
    (indices, values), W_dec, shards = active, training.sae.W_dec.data, training.world.latents
    if shards.alone:
        return kernels.reconstruct(indices, values, W_dec, bias, goal, scale)
    part = kernels.reconstruct(indices, values, W_dec, None, torch.zeros_like(goal), 1.0).g
    error = shards.sum_(part).sub_(goal if bias is None else goal - bias)
    # with values of zero the kernel takes the given error as it is
    return kernels.reconstruct(indices, torch.zeros_like(values), W_dec, None, error.neg_(), scale)


def _auxk(
    training: Training,
    kernels: ModuleType,
    read: Float[Tensor, "token d_in"],
    residual: Float[Tensor, "token d_out"],
) -> AuxK | None:
    """The weighted AuxK loss and its gradients (``saes.losses.auxk``), if there is one and latents are not divided."""
    weight, sae = training.config.auxk_weight, training.sae
    if not weight or not training.most_dead:
        return None
    dead, silence = training.dead_places()
    variance = spread(residual, training.world.data, kernels.variance)
    scale = torch.where(variance == 0, 0.0, weight / variance)  # the living may leave nothing to reconstruct
    rows = (sae.W_enc.data.T[dead], sae.b_enc.data[dead] + silence, sae.W_dec.data[dead])
    return auxk(dead, *rows, read, residual, scale, k_aux_of(sae.config.d_in, len(dead)), kernels)


def _auxk_of_shards(
    training: Training, kernels: ModuleType, pre: Float[Tensor, "token d_sae"], residual: Float[Tensor, "token d_out"]
) -> list[Term]:
    """The same where latents are divided: each shard has so few of a token's active ones that sparse sums are less."""
    weight, shards, most_dead = training.config.auxk_weight, training.world.latents, training.most_dead
    k_aux = k_aux_of(training.sae.config.d_in, int(shards.total(most_dead))) if weight else 0
    if not k_aux:
        return []
    dead, silence = training.dead_places()
    variance = spread(residual, training.world.data, kernels.variance)
    most = min(k_aux, int(shards.largest(most_dead)))
    places, values = _largest(training, kernels, pre[:, dead].add_(silence), k_aux, most)
    own = dead[places] if len(dead) else places  # a shard without dead latents has zeros only
    nothing = variance == 0  # the living may leave nothing to reconstruct
    fraction = (weight * (~nothing).double(), torch.where(nothing, 1.0, variance))
    return [_term(training, kernels, (own, values), residual, *fraction, biased=False)]


def _summed(
    training: Training,
    kernels: ModuleType,
    terms: list[Term],
    aux: AuxK | None,
    x: Float[Tensor, "token d_in"],
    read: Float[Tensor, "token d_in"],
) -> dict[str, Tensor]:
    """The weights' gradients, summed over the terms and AuxK."""
    sae, grads = training.sae, training.grads
    for number, term in enumerate(terms):
        kernels.weight_grads(term.indices, term.values, term.grads, term.g, read, grads, add=number > 0)
    if aux:
        aux.add_to(grads)
    of = {"W_dec": grads.decoder, "W_enc": grads.encoder, "b_enc": grads.bias}
    biased = [term.g for term in terms if term.biased]
    of["b_dec"] = sum((g.sum(0) for g in biased[1:]), biased[0].sum(0))
    if sae.config.subtract_b_dec:  # it is read, too
        of["b_dec"] = of["b_dec"] - training.world.latents.sum_(sae.W_enc.data @ grads.bias)
    if sae.config.skip:
        of["W_skip"] = x.T @ sum(biased[1:], biased[0])
    return of
