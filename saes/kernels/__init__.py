"""Kernels of the sparse training step: eager ones that run anywhere, and faster twins with the same names."""

from types import ModuleType

import torch

from saes.kernels import cpu, eager


def kernels_for(device: torch.device) -> ModuleType:
    """The fastest kernels for a device, with the names and signatures of ``saes.kernels.eager``."""
    return cpu if device.type == "cpu" and cpu.available() else eager
