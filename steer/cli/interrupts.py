"""Ctrl-C while libraries are imported, and SIGTERM, which is taken as Ctrl-C is."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

INTERRUPTED, TERMINATED = 130, 143  # exit codes, as shells have them: 128 + SIGINT, 128 + SIGTERM


class TermSignals:
    """In the block SIGTERM raises KeyboardInterrupt, so that whatever is held or half-written is put in order.

    Schedulers and ``timeout`` send it before they kill. A handler that somebody else has set is left alone. So is the
    signal in processes that torchrun has started, which ends with it those that wait for one that is gone.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self.came = False
        """Whether it has come."""
        self._process = os.getpid()
        self._ours = _is_main_thread() and "WORLD_SIZE" not in env and _now(signal.SIGTERM) is signal.SIG_DFL

    def __enter__(self) -> "TermSignals":
        if self._ours:
            signal.signal(signal.SIGTERM, self._end)
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _end(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            os._exit(TERMINATED)  # a fork holds nothing
        self.came = True
        raise KeyboardInterrupt


def terminated() -> bool:
    """Whether SIGTERM has come in a block of ``TermSignals``: what goes on after Ctrl-C then must end."""
    signals = getattr(_now(signal.SIGTERM), "__self__", None)
    return isinstance(signals, TermSignals) and signals.came


@contextmanager
def importing() -> Iterator[None]:
    """While the block imports, Ctrl-C ends the process at once, and so does SIGTERM.

    A KeyboardInterrupt inside an import may be swallowed, or come out as the error of a library that is half loaded.
    Nothing has begun yet, so nothing is lost. A handler that somebody else has set is left alone.
    """
    before: dict[signal.Signals, Any] = {}
    if _is_main_thread():
        if _now(signal.SIGINT) is signal.default_int_handler:
            before[signal.SIGINT] = signal.signal(signal.SIGINT, _leave)
        if isinstance(getattr(_now(signal.SIGTERM), "__self__", None), TermSignals):
            before[signal.SIGTERM] = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"Aborted.\n")
    os._exit(128 + number)


def _now(number: signal.Signals) -> Any:
    return signal.getsignal(number)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
