"""Ctrl-C, or SIGTERM, while SAEs are trained: the first one lets the step end and a checkpoint be written."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """In the block, the first Ctrl-C makes ``stop`` true, and so does SIGTERM, which schedulers send before they kill.

    That is so once training has begun; an earlier one, or another one, ends everything as it does outside. With
    several processes SIGTERM is left alone: it is how torchrun ends those that wait for one that is gone.
    """

    def __init__(self, told: bool = True, alone: bool = True) -> None:
        self._told = told
        """Whether this process says what happens; of several, one does."""
        self._signals = (signal.SIGINT, signal.SIGTERM) if alone else (signal.SIGINT,)
        self.asked = False
        """Whether one of them came."""
        self.exit_code = 0
        """128 and the number of the signal, as shells have it."""
        self._begun = False
        self._before: dict[signal.Signals, Any] = {}

    def stop(self) -> bool:
        """Asked after every step: whether to save and end."""
        self._begun = True
        return self.asked

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._told_to_end) for one in self._signals}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for one, before in self._before.items():
            signal.signal(one, before)

    def _told_to_end(self, number: int, frame: FrameType | None) -> None:
        self.exit_code = 128 + number
        if self.asked or not self._begun:
            raise KeyboardInterrupt() if number == signal.SIGINT else SystemExit(self.exit_code)
        self.asked = True
        if self._told:
            os.write(2, b"\nStopping after this step; Ctrl-C again ends without a checkpoint.\n")
