"""How long work tells about itself: a protocol, so that the library prints nothing."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Receives the stages of a job and how far each is."""

    def stage(self, title: str, total: int | None = None) -> AbstractContextManager[object]:
        """A stage begins; it ends with the block. ``total`` counts what ``advance`` will add up to."""
        ...

    def advance(self, count: int = 1, note: str = "") -> None:
        """``count`` more units of the current stage are done; ``note`` is a short remark for the display."""
        ...

    def note(self, message: str) -> None:
        """Something that the user should know."""
        ...


class Silent:
    """Progress that is shown to nobody."""

    def stage(self, title: str, total: int | None = None) -> AbstractContextManager[object]:
        """Begin a stage."""
        return nullcontext()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count work done."""

    def note(self, message: str) -> None:
        """Pass a remark over."""
