"""Which few latents tell a class best: two ways to rank them before a k-sparse probe is fitted."""

import torch

from saes.shapes import Bool, Float, Int, Tensor


def rank_by_mean_difference(codes: Float[Tensor, "n d_sae"], labels: Bool[Tensor, " n"], k: int) -> Int[Tensor, " k"]:
    """The k columns whose means differ most between the classes (SAEBench's sparse probing)."""
    difference = codes[labels].double().mean(0) - codes[~labels].double().mean(0)
    return difference.abs().topk(min(k, len(difference))).indices


def rank_by_l1_probe(
    codes: Float[Tensor, "n d_sae"], labels: Bool[Tensor, "n classes"], k: int, steps: int = 250, l1: float = 0.01
) -> Int[Tensor, "classes k"]:
    """The k columns of greatest positive weight, best first, in a linear probe with an L1 penalty, for each class.

    One-against-rest, positives weighted by how rare they are; Adam at a rate that falls from 0.01 to 1e-5 (the
    feature absorption of arXiv 2409.14507 as SAEBench does it, which takes as many steps on a vocabulary of 20,000).
    """
    y = labels.to(codes.dtype)
    rare = ((len(y) - y.sum(0)) / y.sum(0).clamp_min(1)).to(codes.dtype)
    with torch.enable_grad():
        weight = torch.zeros(codes.shape[1], y.shape[1], dtype=codes.dtype, device=codes.device, requires_grad=True)
        bias = torch.zeros(y.shape[1], dtype=codes.dtype, device=codes.device, requires_grad=True)
        optimiser = torch.optim.Adam([weight, bias], lr=0.01)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = 0.01 * 1e-3 ** (step / steps)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(codes @ weight + bias, y, pos_weight=rare)
            loss = loss + l1 * weight.abs().sum(0).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return weight.detach().T.topk(min(k, codes.shape[1])).indices
