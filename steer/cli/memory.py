"""Memory of a process that computes much."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_KEPT = 2**31 - 1  # bytes


def keep_freed_memory() -> None:
    """Let the C library keep what is freed instead of giving it back to the system.

    A forward pass frees and asks for the same few megabytes again and again, and getting them from the system anew
    takes time (generation takes 15 % less so). Only glibc has the setting; its threshold for mmap is at most 32 MiB.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, 32 * 2**20)
            mallopt(_TRIM_THRESHOLD, _KEPT)
