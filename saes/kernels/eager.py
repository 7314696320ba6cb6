"""The kernels in plain torch, on any device. They say what each computes; the other modules are their faster twins."""

from dataclasses import dataclass

import torch

from saes.shapes import Float, Int, Tensor

CHUNK_ELEMENTS = 2**23  # of a temporary tensor


@dataclass(frozen=True)
class Reconstruction:
    """What ``reconstruct`` gives, for a loss of ``scale / 2`` times the sum of squared errors."""

    g: Float[Tensor, "token d_out"]
    """Gradient of the loss with respect to the reconstruction: ``scale`` times the error."""
    grads: Float[Tensor, "token k"]
    """Gradient with respect to the values."""
    squares: Float[Tensor, " token"]
    """Squared error of each token, in float64."""


@dataclass(frozen=True)
class WeightGrads:
    """Gradients of the weights; that of the encoder is transposed, one row for each latent, as the decoder's.

    Memory that lasts from step to step: to get it anew costs more than to fill it.
    """

    decoder: Float[Tensor, "d_sae d_out"]
    encoder: Float[Tensor, "d_sae d_in"]
    bias: Float[Tensor, " d_sae"]


@dataclass(frozen=True)
class AdamStep:
    """The numbers of one step of Adam (Kingma & Ba, arXiv 1412.6980, algorithm 1)."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    number: int
    """Of the step, from 1."""
    clip: float | Float[Tensor, ""] = 1.0
    """What the gradient is multiplied by first. A tensor spares a GPU the wait for its own result."""


def topk(pre: Float[Tensor, "token d_sae"], k: int) -> tuple[Int[Tensor, "token k"], Float[Tensor, "token k"]]:
    """Indices and values of the k largest of each row, in no particular order."""
    values, indices = pre.topk(k, dim=-1, sorted=False)
    return indices, values


def reconstruct(
    indices: Int[Tensor, "token k"],
    values: Float[Tensor, "token k"],
    W_dec: Float[Tensor, "d_sae d_out"],
    bias: Float[Tensor, " d_out"] | None,
    target: Float[Tensor, "token d_out"],
    scale: float | Float[Tensor, ""],
) -> Reconstruction:
    """Error of ``values @ W_dec[indices] + bias`` against ``target``, and its gradients.

    ``scale`` may be a tensor, which spares a GPU the wait for its own result.
    """
    out = torch.nn.functional.embedding_bag(indices, W_dec, per_sample_weights=values, mode="sum")
    error = (out if bias is None else out + bias) - target
    g = scale * error
    rows = max(1, CHUNK_ELEMENTS // (indices.shape[1] * W_dec.shape[1]))
    grads = [
        torch.bmm(W_dec[some], of.unsqueeze(-1)).squeeze(-1)
        for some, of in zip(indices.split(rows), g.split(rows), strict=True)
    ]
    return Reconstruction(g, torch.cat(grads), error.double().square().sum(-1))


def weight_grads(
    indices: Int[Tensor, "token k"],
    values: Float[Tensor, "token k"],
    grads: Float[Tensor, "token k"],
    g: Float[Tensor, "token d_out"],
    x: Float[Tensor, "token d_in"],
    into: WeightGrads,
    add: bool = False,
) -> None:
    """Sums over all pairs (token, j) of a latent: of ``values g``, ``grads x`` and ``grads``.

    They are written over what is in ``into``, or added to it.
    """
    d_sae = len(into.bias)
    flat = indices.flatten()
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat, minlength=d_sae)
    starts = counts.cumsum(0) - counts
    tokens = order // indices.shape[1]

    def summed(table: Tensor, weights: Tensor) -> Tensor:
        return torch.nn.functional.embedding_bag(
            tokens, table, starts, per_sample_weights=weights.flatten()[order], mode="sum"
        )

    if not add:
        for tensor in (into.decoder, into.encoder, into.bias):
            tensor.zero_()
    into.decoder.add_(summed(g, values))
    into.encoder.add_(summed(x, grads))
    into.bias.index_add_(0, flat, grads.flatten())


def adam_(p: Tensor, grad: Tensor, m: Tensor, v: Tensor, step: AdamStep, project: bool = False) -> None:
    """One step of Adam in place on a parameter and its two moments, all of one shape.

    With ``project``, the part of each row's gradient along the row is taken away first, since it would only change the
    row's norm, and each row has norm 1 afterwards (arXiv 2406.04093, appendix A.1).
    """
    if project:
        grad = grad - (grad * p).sum(-1, keepdim=True) * p
    grad = grad * step.clip
    m.lerp_(grad, 1 - step.beta1)
    v.mul_(step.beta2).addcmul_(grad, grad, value=1 - step.beta2)
    root = (v / (1 - step.beta2**step.number)).sqrt_().add_(step.eps)
    p.addcdiv_(m, root, value=-step.lr / (1 - step.beta1**step.number))
    if project:
        p.div_(p.norm(dim=-1, keepdim=True).clamp_min(1e-12))
