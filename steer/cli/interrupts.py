"""Ctrl-C while libraries are imported."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # exit code, as shells have it: 128 + SIGINT


@contextmanager
def importing() -> Iterator[None]:
    """While the block imports, Ctrl-C ends the process at once.

    A KeyboardInterrupt inside an import may be swallowed, or come out as the error of a library that is half loaded.
    Nothing has begun yet, so nothing is lost. A handler that somebody else has set is left alone.
    """
    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(*_: object) -> None:
    os.write(2, b"Aborted.\n")
    os._exit(INTERRUPTED)
