"""Which latents are active: one function for each activation, from pre-activations to sparse codes.

Pre-activations come after the ReLU, so none is negative.
"""

import math
from collections.abc import Callable

import torch

from saes.distributed.group import ALONE, Group
from saes.distributed.select import kth_largest, most_active, packed
from saes.shapes import Float, Int, Tensor

Selected = tuple[Int[Tensor, "*token k"], Float[Tensor, "*token k"]]


def topk(pre: Float[Tensor, "*token d_sae"], k: int) -> Selected:
    """Indices and values of the k largest of each token, in no order (arXiv 2406.04093, eq. 2)."""
    values, indices = pre.topk(k, dim=-1, sorted=False)
    return indices, values


def above(pre: Float[Tensor, "*token d_sae"], threshold: Float[Tensor, "*d_sae"]) -> Selected:
    """Indices and values of those above a threshold, one for all latents or one for each (arXiv 2407.14435, eq. 5).

    Tokens with fewer active latents than others are filled up with zeros.
    """
    kept = torch.where(pre > threshold, pre, torch.zeros_like(pre))
    most = int((kept > 0).sum(-1).max()) if kept.numel() else 0
    return topk(kept, max(1, most))


def batch_topk(
    pre: Float[Tensor, "token d_sae"],
    k: int,
    topk: Callable[[Tensor, int], Selected] = topk,
    tokens: int | None = None,
    ranks: Group = ALONE,
) -> tuple[Selected, Float[Tensor, ""]]:
    """The ``k * tokens`` largest of a whole batch, and the least of them (training only; arXiv 2412.06410, eq. 5).

    Negative pre-activations count as zero, and zeros are not active; the least is inf if nothing is. Ties with the
    least are all kept, so that the choice does not depend on their order. Tokens with fewer active latents than others
    are filled up with zeros. Inference uses a fixed threshold instead: the average of the least over training.

    ``topk`` finds the largest of each token. The largest of the batch are among them, unless a token has more of its
    own than were looked at; then more are. Where a batch's tokens or latents are divided over ``ranks``, these are the
    largest of all of them, and ``tokens`` is their number on all ranks.

    How many the busiest token has decides how much is computed, so a GPU is waited for once in every turn.
    """
    width = pre.shape[1]
    total = k * (len(pre) if tokens is None else tokens)
    looked_at = min(width, 2 * k)
    while True:
        indices, values = topk(pre, looked_at)
        values = values.relu()
        least = kth_largest(values.view(1, -1), total, ranks)[0, 0]
        kept = torch.where(values < least, torch.zeros_like(values), values)  # NaN stays, and shows in the loss
        last, active = values.amin(-1), kept > 0
        missed = ranks.max_(((last >= least) & (last > 0)).any().int())
        more, most = torch.stack([missed, most_active(active).int()]).tolist()
        if looked_at == width or not more:
            break
        looked_at = min(width, 2 * looked_at)
    # a batch may have no tokens left, and then has no smallest value
    lowest = torch.where(active, kept, math.inf).amin() if kept.numel() else kept.new_full((), math.inf)
    return packed(indices, kept, most), -ranks.max_(-lowest)
