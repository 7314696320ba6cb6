"""JumpReLU and its gradients (Rajamanoharan et al., arXiv 2407.14435, section 4).

Both functions are steps in the threshold, so their true gradient in it is zero almost everywhere. In its place stands
that of the expected loss, estimated from the pre-activations within half a bandwidth of the threshold.
"""

from typing import Any

import torch

from saes.shapes import Float, Tensor


def jumprelu(
    pre: Float[Tensor, "token d_sae"], threshold: Float[Tensor, " d_sae"], bandwidth: float
) -> Float[Tensor, "token d_sae"]:
    """``pre`` where it exceeds the threshold, else 0. The threshold learns where ``pre`` is near it."""
    return _JumpReLU.apply(pre, threshold, bandwidth)


def active(
    pre: Float[Tensor, "token d_sae"], threshold: Float[Tensor, " d_sae"], bandwidth: float
) -> Float[Tensor, "token d_sae"]:
    """1 where ``pre`` exceeds the threshold, else 0: summed, a token's L0. There is no gradient in ``pre``."""
    return _Active.apply(pre, threshold, bandwidth)


def _window(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """The rectangle kernel ``K((pre - threshold) / bandwidth) / bandwidth``."""
    return ((pre - threshold).abs() < bandwidth / 2).to(pre.dtype) / bandwidth


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,), (pre, threshold) = grads, ctx.saved_tensors
        moved = -threshold * (_window(pre, threshold, ctx.bandwidth) * grad).sum(0)
        return grad * (pre > threshold), moved, None


class _Active(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        (grad,), (pre, threshold) = grads, ctx.saved_tensors
        return None, -(_window(pre, threshold, ctx.bandwidth) * grad).sum(0), None
