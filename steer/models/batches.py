"""Which rows run together."""

from collections.abc import Sequence

import torch

BATCH_TOKENS = 2**14  # of a batch's prompts, padding included: more at once is not faster, and takes more memory

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


def batches_of(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Rows of these lengths, in tokens, as batches of similar ones, the longest first.

    A batch has at most ``size`` rows and, unless it is a single row, at most ``BATCH_TOKENS`` tokens with padding. The
    longest come first so that a prompt that is too long, or memory that does not suffice, shows at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    found: list[list[int]] = []
    while order:
        rows = max(1, min(size, BATCH_TOKENS // max(1, lengths[order[0]])))
        found.append(order[:rows])
        order = order[rows:]
    return found


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a batch failed for want of memory: CUDA has a type for it, a CPU's allocator says so in words alone."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)
