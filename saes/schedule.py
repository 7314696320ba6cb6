"""What changes over a training run, as functions of the share of it that is done.

Steps stand for tokens seen: ``step`` of ``steps`` batches, all of one size.
"""

import math

from saes.config import LrSchedule

SHORT_RUN = 8.0  # times the rate of a long run, at most


def default_lr(d_sae: int, steps: int, at_2_14: float = 2e-4, long_steps: int = 100_000) -> float:
    """Peak learning rate for a width and a length of the run.

    ``at_2_14`` for 2^14 latents, falling as 1 / sqrt(width), is that of runs of ``long_steps`` or more. In shorter ones
    weights have less time to get where they belong: it grows as 1 / cbrt(steps), up to eight times (measured from 292
    to 2,928 steps; docs/quality.md).

    2e-4 is Adam's (Gao et al., arXiv 2406.04093, section 3); each optimiser of ``saes.optimisers`` names its own two
    numbers.
    """
    longer = min(SHORT_RUN, max(1.0, long_steps / steps) ** (1 / 3))
    return at_2_14 / (d_sae / 2**14) ** 0.5 * longer


def lr_factor(step: int, steps: int, warmup_frac: float, decay_frac: float, schedule: LrSchedule = "linear") -> float:
    """Share of the peak learning rate at ``step`` (from 0): a linear rise, then flat, then a fall to zero."""
    rise = (step + 1) / max(1.0, warmup_frac * steps)
    if schedule == "constant":
        return min(1.0, rise)
    fall = (steps - step) / max(1.0, decay_frac * steps)
    if schedule == "cosine":
        fall = (1 - math.cos(math.pi * min(1.0, fall))) / 2
    return min(1.0, rise, fall)


def ramp(step: int, steps: int, frac: float) -> float:
    """Share reached at ``step`` (from 0) of something that rises in a line over ``frac`` of the run; at most 1."""
    return min(1.0, (step + 1) / max(1.0, frac * steps))


def k_at(step: int, steps: int, k: int, k_start: int | None, frac: float) -> int:
    """Active latents at ``step`` (from 0): from ``k_start`` in a line to ``k`` over ``frac`` of the run."""
    if k_start is None or step >= frac * steps:
        return k
    return round(k_start + (k - k_start) * step / (frac * steps))
