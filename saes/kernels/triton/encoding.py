"""The encoder's product and the selection from it."""

import torch

from saes.config import Selection
from saes.kernels.eager import SPARE, Memory, kept
from saes.kernels.triton.rescoring import dots
from saes.kernels.triton.selection import topk, topk_of_sum
from saes.shapes import Float, Int, Tensor


def encode_topk(
    x: Float[Tensor, "token d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    k: int,
    selection: Selection = "exact",
    memory: Memory | None = None,
) -> tuple[Int[Tensor, "token k"], Float[Tensor, "token k"]]:
    """See ``eager.encode_topk``."""
    fast = selection == "fast"
    pre = kept(memory, "pre", (len(x), W_enc.shape[1]), x, torch.bfloat16 if fast else None)
    if not fast:
        torch.addmm(b_enc, x, W_enc, out=pre)
        return topk(pre, k)
    torch.mm(x.bfloat16(), W_enc.bfloat16(), out=pre)
    candidates, _ = topk_of_sum(pre, b_enc, min(k + SPARE, W_enc.shape[1]))
    places, values = topk(b_enc[candidates] + dots(x, W_enc.T, candidates), k)
    return candidates.gather(-1, places), values
