"""Reading ahead: a background thread makes the next items while the present one is used."""

from collections.abc import Callable, Iterator
from queue import Empty, Full, Queue
from threading import Event, Thread, main_thread
from typing import Generic, TypeVar
from weakref import finalize

T = TypeVar("T")
_LOOK = 0.05  # seconds between looks at whether the other side has stopped


class Stop:
    """Set when a background thread should end: because somebody said so, or because the program ends."""

    def __init__(self) -> None:
        self._event = Event()

    def set(self) -> None:
        """Say so."""
        self._event.set()

    def is_set(self) -> bool:
        """Whether to end."""
        return self._event.is_set() or not main_thread().is_alive()

    def wait(self, seconds: float) -> None:
        """Wait for so long, or until somebody says so."""
        self._event.wait(seconds)


class Ahead(Generic[T]):
    """Items in their order, up to ``depth`` of them made in advance.

    ``make`` gives the iterator of items, which should end soon when the ``Stop`` that it is handed is set. An error of
    the iterator comes out where its item would have. The thread ends when the items do, on ``close``, when nobody holds
    this object any more, and at the end of the program.
    """

    def __init__(self, make: Callable[[Stop], Iterator[T]], depth: int) -> None:
        self._queue: Queue[T | _End] = Queue(depth)
        self._stop = Stop()
        finalize(self, self._stop.set)
        # no daemon: the program ends when the pass under way is done, and is not torn down beneath it
        Thread(target=_produce, args=(make, self._queue, self._stop)).start()

    def __iter__(self) -> "Ahead[T]":
        return self

    def __next__(self) -> T:
        while not self._stop.is_set():
            try:
                item = self._queue.get(timeout=_LOOK)
            except Empty:
                continue
            if not isinstance(item, _End):
                return item
            self.close()
            if item.error is not None:
                raise item.error
        raise StopIteration

    def close(self) -> None:
        """End: the thread stops after the item that it is making, and no more come out."""
        self._stop.set()


class _End:
    """What comes after the last item: the error that ended the items, if any."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def _produce(make: Callable[[Stop], Iterator[T]], queue: "Queue[T | _End]", stop: Stop) -> None:
    try:
        for item in make(stop):
            if not _put(queue, item, stop):
                return
        _put(queue, _End(), stop)
    except BaseException as error:  # whatever it is, the consumer has to see it
        _put(queue, _End(error), stop)


def _put(queue: "Queue[T | _End]", item: T | _End, stop: Stop) -> bool:
    while not stop.is_set():
        try:
            queue.put(item, timeout=_LOOK)
            return True
        except Full:
            continue
    return False
