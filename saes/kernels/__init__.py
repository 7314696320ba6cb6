"""Kernels of the sparse training step: eager ones that run anywhere, and faster twins with the same names.

``SAES_KERNELS`` in the environment chooses: ``eager`` for those, ``triton`` for those of Triton on any device (on a CPU
with ``TRITON_INTERPRET=1``). Without it, the fastest that run are taken.
"""

import importlib.util
import os
import shutil
from functools import cache
from types import ModuleType

import torch

from saes.errors import ConfigError
from saes.kernels import cpu, eager


def kernels_for(device: torch.device) -> ModuleType:
    """The fastest kernels for a device, with the names and signatures of ``saes.kernels.eager``.

    Raises:
        ConfigError: ``SAES_KERNELS`` names none.
    """
    asked = os.environ.get("SAES_KERNELS", "")
    if asked not in ("", "eager", "triton"):
        raise ConfigError(f"SAES_KERNELS must be eager or triton, got {asked!r}. Unset it for the fastest that run.")
    if asked == "eager":
        return eager
    if asked == "triton" or (device.type == "cuda" and _triton_runs()):
        from saes.kernels import triton

        return triton
    return cpu if device.type == "cpu" and cpu.available() else eager


@cache
def _triton_runs() -> bool:
    """Whether Triton is installed, and a C compiler, which it needs to build what launches a kernel."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return compiler is not None and importlib.util.find_spec("triton") is not None
