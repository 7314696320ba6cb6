"""Adam with clipping, the projection of the gradient and the renormalising of rows, in one pass over memory."""

from typing import no_type_check

import torch
import triton
import triton.language as tl

from saes.kernels.eager import AdamStep
from saes.kernels.eager import adam_ as eager_adam_
from saes.kernels.triton.launch import power_of_two, scalar
from saes.shapes import Tensor

FLAT_BLOCK = 2048
WIDEST_ROW = 32768  # that a program can hold


def adam_(p: Tensor, grad: Tensor, m: Tensor, v: Tensor, step: AdamStep, project: bool = False) -> None:
    """See ``eager.adam_``. The sums are in float32 also where the tensors, or some of them, are in bfloat16.

    A second moment in bfloat16 hardly falls again, since 0.1% less of it rounds to itself: keep ``v`` in float32.
    Parameters that are not contiguous, and rows wider than ``WIDEST_ROW``, go to the eager kernel.
    """
    if not (p.is_contiguous() and m.is_contiguous() and v.is_contiguous()) or (project and p.shape[-1] > WIDEST_ROW):
        eager_adam_(p, grad, m, v, step, project)
        return
    width = p.shape[-1] if project else FLAT_BLOCK
    block = power_of_two(width, WIDEST_ROW)
    with torch.cuda.device_of(p):
        _adam[(triton.cdiv(p.numel(), width),)](
            p,
            grad.contiguous(),
            m,
            v,
            scalar(step.clip, p.device),
            step.lr / (1 - step.beta1**step.number),
            1 - step.beta1,
            1 - step.beta2,
            1 / (1 - step.beta2**step.number),
            step.eps,
            p.numel(),
            width,
            PROJECT=project,
            BLOCK=block,
            num_warps=max(1, min(16, block // 512)),
        )


@triton.jit
@no_type_check
def _adam(
    p,
    grad,
    m,
    v,
    clip,
    rate,
    change1,
    change2,
    correct2,
    eps,
    size,
    width,
    PROJECT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row, or as many elements."""
    i = tl.arange(0, BLOCK)
    place = tl.program_id(0).to(tl.int64) * width + i
    inside = (i < width) & (place < size)
    weight = tl.load(p + place, mask=inside, other=0).to(tl.float32)
    slope = tl.load(grad + place, mask=inside, other=0).to(tl.float32)
    if PROJECT:
        slope -= tl.sum(slope * weight, 0) * weight
    slope *= tl.load(clip)
    mean = tl.load(m + place, mask=inside, other=0).to(tl.float32)
    square = tl.load(v + place, mask=inside, other=0).to(tl.float32)
    mean += change1 * (slope - mean)
    square += change2 * (slope * slope - square)
    weight -= rate * tl.div_rn(mean, tl.sqrt_rn(square * correct2) + eps)
    if PROJECT:
        weight = tl.div_rn(weight, tl.maximum(tl.sqrt_rn(tl.sum(weight * weight, 0)), 1e-12))
    tl.store(p + place, weight, mask=inside)
    tl.store(m + place, mean, mask=inside)
    tl.store(v + place, square, mask=inside)
