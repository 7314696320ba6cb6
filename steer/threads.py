"""How many CPU threads torch works with, and how many processes share the work on a model."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from steer.forks import available_cpus, can_fork

SMALL = 20_000_000  # parameters


@contextmanager
def torch_threads(model: nn.Module | None, asked: int | None = None) -> Iterator[int]:
    """Run the block with ``asked`` threads; None: one for a small model, else as many as torch takes.

    Yields the number. The layers of a small model (``SMALL`` parameters) are over before threads have met: two gain
    little on an idle machine, and on a busy one every step waits for the one that was put aside, so that two threads
    are several times slower than one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(asked or (1 if model is not None and is_small(model) else before))
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def is_small(model: nn.Module) -> bool:
    """Whether the layers of a model are over before threads have met."""
    return sum(parameter.numel() for parameter in model.parameters()) < SMALL


def processes_for(model: nn.Module, asked: int | None = None) -> int:
    """How many processes should share the work on a model (``steer.forks``).

    ``asked``, or one for each CPU for a small model on one thread; a larger model gains more from threads. It is 1 for
    a model that is not on the CPU, and with several threads: neither survives a fork.
    """
    if any(parameter.device.type != "cpu" for parameter in model.parameters()):
        return 1
    if not can_fork() or torch.get_num_threads() > 1:
        return 1
    return asked or (available_cpus() if is_small(model) else 1)
