"""Large pages for large tensors on a CPU.

Where memory comes in pages of 4 KiB, as on most Linux systems unless a program asks for more, each row of weights lies
in a page of its own, which must be found before the row can be read.
"""

import contextlib
import ctypes
import sys
from functools import cache

from saes.shapes import Tensor

PAGE_BYTES = 2**21
LEAST_BYTES = 2 * PAGE_BYTES  # so that one whole page is certain to lie inside
HUGEPAGE, COLLAPSE = 14, 25  # of madvise(2): give large ones from now on; make large ones of what is there


def in_large_pages(tensor: Tensor) -> Tensor:
    """Ask the system to hold a tensor in large pages, and give it back; its content stays.

    Best before it is first written to. Systems that have none, or will not, leave everything as it is.
    """
    libc = _libc()
    if libc is not None and tensor.device.type == "cpu" and tensor.nbytes >= LEAST_BYTES:
        storage = tensor.untyped_storage()
        start = -(-storage.data_ptr() // PAGE_BYTES) * PAGE_BYTES
        stop = (storage.data_ptr() + storage.nbytes()) // PAGE_BYTES * PAGE_BYTES
        if start < stop:
            for advice in (HUGEPAGE, COLLAPSE):
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), advice)
    return tensor


@cache
def _libc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        return libc if libc.madvise else None
    return None
