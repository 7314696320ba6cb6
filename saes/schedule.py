"""The learning rate as a function of the step."""


def default_lr(d_sae: int) -> float:
    """Peak learning rate of Adam for a width: 2e-4 at 2^14 latents, growing as 1 / sqrt(width) below it."""
    return 2e-4 / (d_sae / 2**14) ** 0.5


def lr_factor(step: int, steps: int, warmup_frac: float, decay_frac: float) -> float:
    """Share of the peak learning rate at ``step`` (from 0): linear rise, flat, linear fall to zero."""
    rise = (step + 1) / max(1.0, warmup_frac * steps)
    fall = (steps - step) / max(1.0, decay_frac * steps)
    return min(1.0, rise, fall)
