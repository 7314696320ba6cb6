"""Ctrl-C while SAEs are trained: the first one lets the step end and a checkpoint be written."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """In the block, the first Ctrl-C makes ``stop`` true.

    That is so once training has begun; an earlier one, or another one, ends everything as it does outside.
    """

    def __init__(self, told: bool = True) -> None:
        self._told = told
        """Whether this process says what happens; of several, one does."""
        self.asked = False
        """Whether Ctrl-C was pressed."""
        self._begun = False
        self._before: Any = None

    def stop(self) -> bool:
        """Asked after every step: whether to save and end."""
        self._begun = True
        return self.asked

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._pressed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _pressed(self, number: int, frame: FrameType | None) -> None:
        if self.asked or not self._begun:
            raise KeyboardInterrupt
        self.asked = True
        if self._told:
            os.write(2, b"\nStopping after this step; Ctrl-C again ends without a checkpoint.\n")
