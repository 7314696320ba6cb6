"""Sparse decoding, the error and the gradients of the values, with each decoder row read once."""

from typing import no_type_check

import torch
import triton
import triton.language as tl

from saes.kernels.eager import Reconstruction
from saes.kernels.triton.launch import power_of_two, scalar
from saes.shapes import Float, Int, Tensor

GATHERED_BLOCK = 8192  # decoder elements that a program holds
K_BLOCK = 64  # decoder rows, at most, that a program holds all at once
K_TURN = 8  # decoder rows that it holds in turn, where a token has more: few, so that blocks of columns are wide
D_BLOCK = 128  # columns, at least


def reconstruct(
    indices: Int[Tensor, "token k"],
    values: Float[Tensor, "token k"],
    W_dec: Float[Tensor, "d_sae d_out"],
    bias: Float[Tensor, " d_out"] | None,
    target: Float[Tensor, "token d_out"],
    scale: float | Float[Tensor, ""],
) -> Reconstruction:
    """See ``eager.reconstruct``. ``g`` has the dtype of the target; ``grads`` are in float32.

    Where k exceeds ``K_BLOCK``, each decoder row is read twice. Beside the result, this takes memory for the values'
    gradients once more for each block of columns.
    """
    indices, values, W_dec, target = (one.contiguous() for one in (indices, values, W_dec, target))
    (rows, k), width = indices.shape, W_dec.shape[1]
    k_block = power_of_two(k, K_BLOCK) if k <= K_BLOCK else K_TURN
    d_block = power_of_two(width, max(D_BLOCK, GATHERED_BLOCK // k_block))
    blocks = triton.cdiv(width, d_block)
    g = torch.empty_like(target)
    grads = torch.empty(blocks, rows, k, dtype=torch.float32, device=target.device)
    squares = torch.empty(blocks, rows, dtype=torch.float32, device=target.device)
    with torch.cuda.device_of(target):
        # columns vary slowest: the decoder's block of columns stays in the cache from token to token
        _reconstruct[(rows, blocks)](
            indices,
            values,
            W_dec,
            target if bias is None else bias.contiguous(),
            target,
            scalar(scale, target.device),
            g,
            grads,
            squares,
            rows,
            k,
            width,
            BIAS=bias is not None,
            AT_ONCE=k <= k_block,
            K_BLOCK=k_block,
            D_BLOCK=d_block,
            num_warps=4,
        )
    return Reconstruction(g, grads.sum(0), squares.double().sum(0))


@triton.jit
@no_type_check
def _decoder_rows(indices, W_dec, j, k, d, width):
    """Columns ``d`` of the decoder rows of a token's latents ``j``, in float32."""
    latent = tl.load(indices + j, mask=j < k, other=0)
    inside = (j < k)[:, None] & (d < width)[None, :]
    return tl.load(W_dec + latent[:, None] * width + d[None, :], mask=inside, other=0).to(tl.float32)


@triton.jit
@no_type_check
def _reconstruct(
    indices,
    values,
    W_dec,
    bias,
    target,
    scale,
    g,
    grads,
    squares,
    rows,
    k,
    width,
    BIAS: tl.constexpr,
    AT_ONCE: tl.constexpr,
    K_BLOCK: tl.constexpr,
    D_BLOCK: tl.constexpr,
):
    """One block of columns of one token; ``grads`` and ``squares`` are summed over the blocks afterwards."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    indices += row * k
    values += row * k
    grads += (block * rows + row) * k
    d = block * D_BLOCK + tl.arange(0, D_BLOCK)
    j = tl.arange(0, K_BLOCK)
    error = -tl.load(target + row * width + d, mask=d < width, other=0).to(tl.float32)
    if BIAS:
        error += tl.load(bias + d, mask=d < width, other=0).to(tl.float32)
    if AT_ONCE:
        a = tl.load(values + j, mask=j < k, other=0).to(tl.float32)
        w = _decoder_rows(indices, W_dec, j, k, d, width)
        error += tl.sum(a[:, None] * w, 0)
    else:
        for start in range(0, k, K_BLOCK):
            a = tl.load(values + start + j, mask=start + j < k, other=0).to(tl.float32)
            error += tl.sum(a[:, None] * _decoder_rows(indices, W_dec, start + j, k, d, width), 0)
    tl.store(squares + block * rows + row, tl.sum(error * error, 0))
    gradient = tl.load(scale) * error
    tl.store(g + row * width + d, gradient, mask=d < width)
    if AT_ONCE:
        tl.store(grads + j, tl.sum(gradient[None, :] * w, 1), mask=j < k)
    else:
        for start in range(0, k, K_BLOCK):
            w = _decoder_rows(indices, W_dec, start + j, k, d, width)
            tl.store(grads + start + j, tl.sum(gradient[None, :] * w, 1), mask=start + j < k)
