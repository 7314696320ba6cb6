"""Products of each token with rows of its own: the candidates of the fast selection, scored anew."""

from typing import no_type_check

import torch
import triton
import triton.language as tl

from saes.kernels.triton.launch import power_of_two
from saes.shapes import Float, Int, Tensor

N_BLOCK = 16  # rows, at most, of a program
GATHERED_BLOCK = 8192  # elements of them that it holds at a time


def dots(
    x: Float[Tensor, "token width"], rows: Float[Tensor, "d_sae width"], indices: Int[Tensor, "token n"]
) -> Float[Tensor, "token n"]:
    """See ``eager.dots``. The rows are read once, and are not written anywhere; sums are in float32."""
    x, rows, indices = x.contiguous(), rows.contiguous(), indices.contiguous()
    (tokens, n), width = indices.shape, x.shape[1]
    n_block = power_of_two(n, N_BLOCK)
    out = torch.empty(tokens, n, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        _dots[(tokens, triton.cdiv(n, n_block))](
            x,
            rows,
            indices,
            out,
            n,
            width,
            N_BLOCK=n_block,
            D_BLOCK=power_of_two(width, GATHERED_BLOCK // n_block),
            num_warps=4,
        )
    return out


@triton.jit
@no_type_check
def _dots(x, rows, indices, out, n, width, N_BLOCK: tl.constexpr, D_BLOCK: tl.constexpr):
    """A token's products with some of its rows."""
    token = tl.program_id(0).to(tl.int64)
    j = tl.program_id(1) * N_BLOCK + tl.arange(0, N_BLOCK)
    latent = tl.load(indices + token * n + j, mask=j < n, other=0)
    total = tl.zeros((N_BLOCK, D_BLOCK), tl.float32)
    for start in range(0, width, D_BLOCK):
        d = start + tl.arange(0, D_BLOCK)
        inside = (j < n)[:, None] & (d < width)[None, :]
        w = tl.load(rows + latent[:, None] * width + d[None, :], mask=inside, other=0).to(tl.float32)
        total += w * tl.load(x + token * width + d, mask=d < width, other=0).to(tl.float32)[None, :]
    tl.store(out + token * n + j, tl.sum(total, 1), mask=j < n)
