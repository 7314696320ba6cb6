"""How many CPU threads torch works with."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

SMALL = 20_000_000  # parameters


@contextmanager
def torch_threads(model: nn.Module, asked: int | None = None) -> Iterator[int]:
    """Run the block with ``asked`` threads; None: one for a small model, as many as torch takes for a larger one.

    Yields the number. The layers of a small model (``SMALL`` parameters) are over before threads have met: two gain
    little on an idle machine, and on a busy one every step waits for the one that was put aside, so that two threads
    are several times slower than one.
    """
    before = torch.get_num_threads()
    small = sum(parameter.numel() for parameter in model.parameters()) < SMALL
    torch.set_num_threads(asked or (1 if small else before))
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
