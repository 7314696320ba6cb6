"""What the launching of every kernel shares."""

import torch

from saes.shapes import Float, Tensor


def scalar(value: float | Float[Tensor, ""], device: torch.device) -> Float[Tensor, ""]:
    """A number where a kernel can read it; one that is computed on the device never leaves it."""
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=torch.float32)
    return torch.full((), value, dtype=torch.float32, device=device)


def power_of_two(least: int, most: int) -> int:
    """The smallest power of two that is at least ``least``, or ``most`` where that is less."""
    return min(1 << max(0, least - 1).bit_length(), most)
