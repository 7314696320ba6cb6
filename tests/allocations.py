"""What torch allocates on the CPU while something runs, counted by its own profiler rather than timed or guessed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Allocated:
    """Bytes of tensors on the CPU."""

    peak: int
    """Most that were held at once, of those allocated meanwhile."""
    total: int
    """All that was allocated, freed or not."""
    left: int
    """Held at the end, less what was there before and was freed."""


def allocated(work: Callable[[], Any]) -> Allocated:
    """Count what ``work`` allocates, on all of its threads."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        kept = work()  # not freed before the count ends
    events = [one for one in found.profiler.kineto_results.events() if one.name() == "[memory]"]
    held = peak = total = 0
    for change in (one.nbytes() for one in sorted(events, key=lambda one: one.start_ns())):
        held += change
        peak, total = max(peak, held), total + max(change, 0)
    del kept
    return Allocated(peak, total, held)
