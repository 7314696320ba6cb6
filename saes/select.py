"""Which latents are active: one function for each activation, from pre-activations to sparse codes.

Pre-activations come after the ReLU, so none is negative.
"""

import torch

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


def batch_topk(pre: Float[Tensor, "token d_sae"], k: int) -> tuple[Selected, Float[Tensor, ""]]:
    """The ``k * tokens`` largest of a whole batch, and the least of them (training only; arXiv 2412.06410, eq. 5).

    Inference uses a fixed threshold instead: the average of that least value over training.
    """
    count = min(k * len(pre), pre.numel())
    least = pre.flatten().topk(count, sorted=False).values.amin()
    # ties with the least are all kept, so that the choice does not depend on their order
    kept = torch.where(pre >= least, pre, torch.zeros_like(pre))
    most = int((kept > 0).sum(-1).max())
    return topk(kept, max(1, most)), least
