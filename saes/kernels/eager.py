"""The kernels in plain torch, on any device. They say what each computes; the other modules are their faster twins."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from saes.config import Selection
from saes.kernels.eager_adam import AdamStep, adam_, adam_8bit_, adam_bf16_
from saes.pages import in_large_pages
from saes.select import Selected, batch_topk
from saes.shapes import Float, Int, Tensor

__all__ = [
    "AdamStep",
    "Memory",
    "Reconstruction",
    "WeightGrads",
    "adam_",
    "adam_8bit_",
    "adam_bf16_",
    "dots",
    "encode_batch_topk",
    "encode_topk",
    "kept",
    "reconstruct",
    "selection_done",
    "topk",
    "variance",
    "weight_grads",
]

CHUNK_ELEMENTS = 2**23  # of a temporary tensor
SPARE = 32  # candidates of the fast selection beyond the k that are wanted
Memory = dict[str, Tensor]


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
    radial: Float[Tensor, " d_sae"]
    """Of each row of the decoder's, the part along that row of ``W_dec``: it follows from the pairs alone."""
    squares: Float[Tensor, " d_sae"]
    """Sum of squares of each latent's row of the decoder's and of the encoder's."""


def topk(pre: Float[Tensor, "token d_sae"], k: int) -> tuple[Int[Tensor, "token k"], Float[Tensor, "token k"]]:
    """Indices and values of the k largest of each row, in no particular order."""
    values, indices = pre.topk(k, dim=-1, sorted=False)
    return indices, values


def selection_done(selection: Selection) -> Selection:
    """What ``encode_topk`` does where ``selection`` is asked for: not ``proven``, whose latents ``exact`` finds too."""
    return "exact" if selection == "proven" else selection


def encode_topk(
    x: Float[Tensor, "token d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    k: int,
    selection: Selection = "exact",
    memory: Memory | None = None,
) -> tuple[Int[Tensor, "token k"], Float[Tensor, "token k"]]:
    """Indices and values of the k largest of each row of ``x W_enc + b_enc``, in no particular order.

    ``exact`` and ``proven`` give the same latents (up to rounding in float32); here, ``fast`` takes the k + ``SPARE``
    largest in bfloat16 and of those the k largest in float32. The values are in float32 always. See
    ``saes.config.Selection``.
    ``memory`` is where large tensors are kept from step to step: to get them anew costs more than to fill them.
    """
    if selection != "fast":
        pre = kept(memory, "pre", (len(x), W_enc.shape[1]), x)
        torch.addmm(b_enc, x, W_enc, out=pre)
        return topk(pre, k)
    rough = torch.mm(x.bfloat16(), W_enc.bfloat16()) + b_enc
    candidates = rough.topk(min(k + SPARE, W_enc.shape[1]), dim=-1, sorted=False).indices
    scores = b_enc[candidates] + dots(x, W_enc.T, candidates)
    values, places = scores.topk(k, dim=-1, sorted=False)
    return candidates.gather(-1, places), values


def encode_batch_topk(
    x: Float[Tensor, "token d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    k: int,
    memory: Memory | None = None,
    topk: Callable[[Tensor, int], Selected] = topk,
) -> tuple[Selected, Float[Tensor, ""]]:
    """The ``k * token`` largest of all of ``x W_enc + b_enc``; see ``saes.select.batch_topk``, and ``encode_topk``."""
    pre = kept(memory, "pre", (len(x), W_enc.shape[1]), x)
    torch.addmm(b_enc, x, W_enc, out=pre)
    return batch_topk(pre, k, topk)


def kept(
    memory: Memory | None, name: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """A tensor out of ``memory``, made where there is none of this shape yet; what it holds is undefined."""
    found = None if memory is None else memory.get(name)
    if found is None or found.shape != shape or found.dtype != (dtype or like.dtype):
        found = in_large_pages(like.new_empty(shape, dtype=dtype))
        if memory is not None:
            memory[name] = found
    return found


def variance(x: Float[Tensor, "token d_in"]) -> float | Float[Tensor, ""]:
    """Sum of squared deviations from the mean over tokens; where a GPU would have to be waited for, as a tensor."""
    return (x - x.mean(0)).square().sum()


def dots(
    x: Float[Tensor, "token width"], rows: Float[Tensor, "d_sae width"], indices: Int[Tensor, "token n"]
) -> Float[Tensor, "token n"]:
    """Products of each token with rows of its own."""
    at_once = max(1, CHUNK_ELEMENTS // (indices.shape[1] * rows.shape[1]))
    parts = zip(indices.split(at_once), x.split(at_once), strict=True)
    return torch.cat([torch.bmm(rows[some], of.unsqueeze(-1)).squeeze(-1) for some, of in parts])


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
    return Reconstruction(g, dots(g, W_dec, indices), error.double().square().sum(-1))


def weight_grads(
    indices: Int[Tensor, "token k"],
    values: Float[Tensor, "token k"],
    grads: Float[Tensor, "token k"],
    g: Float[Tensor, "token d_out"],
    x: Float[Tensor, "token d_in"],
    into: WeightGrads,
    add: bool = False,
) -> None:
    """Sums over all pairs (token, j) of a latent: of ``values g``, ``grads x``, ``grads`` and ``values grads``.

    They are written over what is in ``into``, or added to it; ``into.squares`` is that of the result.
    """
    d_sae = len(into.bias)
    flat = indices.flatten()
    latents, order = flat.sort(stable=True)
    starts = torch.searchsorted(latents, torch.arange(d_sae, device=flat.device))  # to count would wait for a GPU
    tokens = order // indices.shape[1]

    def summed(table: Tensor, weights: Tensor) -> Tensor:
        return torch.nn.functional.embedding_bag(
            tokens, table, starts, per_sample_weights=weights.flatten()[order], mode="sum"
        )

    if not add:
        for tensor in (into.decoder, into.encoder, into.bias, into.radial):
            tensor.zero_()
    into.decoder.add_(summed(g, values))
    into.encoder.add_(summed(x, grads))
    into.bias.index_add_(0, flat, grads.flatten())
    into.radial.index_add_(0, flat, (values * grads).flatten())
    into.squares.copy_(into.decoder.square().sum(-1) + into.encoder.square().sum(-1))
