"""The kernels in Triton, for GPUs: twins of the eager ones, one file for each.

Importing this package needs Triton, which torch brings along where it supports CUDA; ``saes.kernels`` chooses. With
``TRITON_INTERPRET=1`` in the environment they run on a CPU too, slowly.

Sums run in float32, in an order that does not depend on timing: there are no atomic additions, and no block size is
chosen by measuring, so equal inputs give equal bits on one kind of machine, which an exact resume needs.

Letters in the kernels: ``row`` one token, ``d`` columns of a block, ``BLOCK`` sizes that are powers of two.
"""

from functools import partial

from saes.kernels.eager import adam_8bit_ as eager_adam_8bit_
from saes.kernels.eager import adam_bf16_ as eager_adam_bf16_
from saes.kernels.eager import encode_batch_topk as eager_encode_batch_topk
from saes.kernels.eager import selection_done, variance
from saes.kernels.triton.adam import adam_
from saes.kernels.triton.encoding import encode_topk
from saes.kernels.triton.gradients import weight_grads
from saes.kernels.triton.reconstruction import reconstruct
from saes.kernels.triton.selection import topk

adam_bf16_ = partial(eager_adam_bf16_, adam_=adam_)  # these round in plain torch
adam_8bit_ = partial(eager_adam_8bit_, adam_=adam_)
encode_batch_topk = partial(eager_encode_batch_topk, topk=topk)

__all__ = [
    "adam_",
    "adam_8bit_",
    "adam_bf16_",
    "encode_batch_topk",
    "encode_topk",
    "reconstruct",
    "selection_done",
    "topk",
    "variance",
    "weight_grads",
]
