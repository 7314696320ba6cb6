"""Gradients of the weights: sums over the pairs (token, j) of each latent, from one sort of the pairs by latent.

A latent that fires on every token would keep one program busy while all others have finished. So the sorted pairs are
cut into chunks, wherever latents begin and end; a chunk that belongs to one latent alone is summed by a program of its
own, into one row of a small table, and the latent adds up such rows and the pairs at its two ends.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl

from saes.kernels.eager import WeightGrads
from saes.kernels.triton.launch import power_of_two
from saes.shapes import Float, Int, Tensor

CHUNK = 128  # pairs
LATENTS = 4  # that one program sums in turn: one each would be too many programs
D_BLOCK = 1024  # columns, at most; 8192 tokens of such a block in float32 are 34 MB, which stay in the cache
AHEAD: tl.constexpr = tl.constexpr(4)  # pairs whose rows are read together


def weight_grads(
    indices: Int[Tensor, "token k"],
    values: Float[Tensor, "token k"],
    grads: Float[Tensor, "token k"],
    g: Float[Tensor, "token d_out"],
    x: Float[Tensor, "token d_in"],
    into: WeightGrads,
    add: bool = False,
) -> None:
    """See ``eager.weight_grads``. Beside ``into`` it takes memory for one row of each ``CHUNK`` pairs."""
    with torch.cuda.device_of(indices):
        # a sort of 32 bits takes half the time; the boundaries come from a search, since counting waits for the GPU
        latents, order = indices.flatten().to(torch.int32).sort(stable=True)
        every = torch.arange(len(into.bias) + 1, dtype=torch.int32, device=latents.device)
        starts = torch.searchsorted(latents, every, out_int32=True)
        pairs = (latents, starts, (order // indices.shape[1]).to(torch.int32))
        values, grads = values.flatten()[order], grads.flatten()[order]
        squares = _sums(pairs, values, g, into.decoder, add) + _sums(pairs, grads, x, into.encoder, add)
        into.squares.copy_(squares)
        one = x.new_ones(len(x), 1)
        _sums(pairs, grads, one, into.bias.unsqueeze(-1), add)
        _sums(pairs, values * grads, one, into.radial.unsqueeze(-1), add)


def _sums(
    pairs: tuple[Tensor, Tensor, Tensor],
    weights: Float[Tensor, " pair"],
    table: Float[Tensor, "token width"],
    out: Float[Tensor, "d_sae width"],
    add: bool,
) -> Float[Tensor, " d_sae"]:
    """Into each latent's row of ``out`` the sum of weight times table row over its pairs; returns the rows' squares.

    ``pairs``: the latent of each, in order; where those of each latent start; and the token of each.
    """
    assert out.is_contiguous()
    latents, starts, tokens = pairs
    table = table.contiguous()
    width, chunks = table.shape[1], len(latents) // CHUNK
    d_block = power_of_two(width, D_BLOCK)
    blocks = triton.cdiv(width, d_block)
    sums = torch.empty(chunks + 1, width, dtype=torch.float32, device=table.device)
    squares = torch.empty(blocks, len(out), dtype=torch.float32, device=table.device)
    sizes = {"CHUNK": CHUNK, "D_BLOCK": d_block, "num_warps": max(1, d_block // 256)}
    # columns vary slowest: the table's block of columns stays in the cache from latent to latent
    if chunks:
        _chunk_sums[(chunks, blocks)](latents, tokens, weights, table, sums, width, **sizes)
    _latent_sums[(triton.cdiv(len(out), LATENTS), blocks)](
        starts,
        tokens,
        weights,
        table,
        sums,
        out,
        squares,
        len(out),
        width,
        ADD=add,
        LATENTS=LATENTS,
        **sizes,
    )
    return squares.sum(0)


@triton.jit
@no_type_check
def _weighted_sum(tokens, weights, table, start, end, d, width, D_BLOCK: tl.constexpr):
    """Sum of weight times columns ``d`` of the table over the sorted pairs from ``start`` to before ``end``."""
    total = tl.zeros((D_BLOCK,), tl.float32)
    for place in tl.range(start, end, loop_unroll_factor=AHEAD):
        row = table + tl.load(tokens + place).to(tl.int64) * width
        weight = tl.load(weights + place).to(tl.float32)
        total += weight * tl.load(row + d, mask=d < width, other=0).to(tl.float32)
    return total


@triton.jit
@no_type_check
def _chunk_sums(latents, tokens, weights, table, sums, width, CHUNK: tl.constexpr, D_BLOCK: tl.constexpr):
    """The sum over one chunk of pairs, if all are of one latent."""
    chunk = tl.program_id(0)
    start = chunk * CHUNK
    d = tl.program_id(1) * D_BLOCK + tl.arange(0, D_BLOCK)
    if tl.load(latents + start) == tl.load(latents + start + CHUNK - 1):
        total = _weighted_sum(tokens, weights, table, start, start + CHUNK, d, width, D_BLOCK)
        tl.store(sums + chunk.to(tl.int64) * width + d, total, mask=d < width)


@triton.jit
@no_type_check
def _latent_sums(
    starts,
    tokens,
    weights,
    table,
    sums,
    out,
    squares,
    latents,
    width,
    ADD: tl.constexpr,
    LATENTS: tl.constexpr,
    CHUNK: tl.constexpr,
    D_BLOCK: tl.constexpr,
):
    """One block of columns of the sums of a few latents."""
    d = tl.program_id(1) * D_BLOCK + tl.arange(0, D_BLOCK)
    first = tl.program_id(0) * LATENTS
    for latent in range(first, tl.minimum(first + LATENTS, latents)):
        start = tl.load(starts + latent)
        end = tl.load(starts + latent + 1)
        first_chunk = (start + CHUNK - 1) // CHUNK
        after_chunks = tl.maximum(first_chunk, end // CHUNK)
        before = tl.minimum(end, first_chunk * CHUNK)
        total = _weighted_sum(tokens, weights, table, start, before, d, width, D_BLOCK)
        for chunk in range(first_chunk, after_chunks):
            total += tl.load(sums + tl.cast(chunk, tl.int64) * width + d, mask=d < width, other=0)
        after = tl.maximum(before, after_chunks * CHUNK)
        total += _weighted_sum(tokens, weights, table, after, end, d, width, D_BLOCK)
        into = out + tl.cast(latent, tl.int64) * width + d
        if ADD:
            total += tl.load(into, mask=d < width, other=0).to(tl.float32)
        tl.store(into, total, mask=(d < width) & ((start < end) | (not ADD)))
        tl.store(squares + tl.program_id(1) * latents + latent, tl.sum(total * total, 0))
