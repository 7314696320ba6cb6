"""Taking turns: hooks belong to the pass that is under way, so one thread at a time runs a model."""

from collections.abc import Callable
from functools import wraps
from threading import RLock
from typing import Concatenate, ParamSpec, Protocol, TypeVar, runtime_checkable


class Lock:
    """A re-entrant lock. A copy of its owner gets one of its own."""

    def __init__(self) -> None:
        self._lock = RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type["Lock"], tuple[()]]:
        return Lock, ()


@runtime_checkable
class _Locked(Protocol):
    lock: Lock


Owner = TypeVar("Owner", bound=_Locked)
Given = ParamSpec("Given")
Result = TypeVar("Result")


def alone(method: Callable[Concatenate[Owner, Given], Result]) -> Callable[Concatenate[Owner, Given], Result]:
    """A method that holds its owner's lock while it runs."""

    @wraps(method)
    def run(owner: Owner, /, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        with owner.lock:
            return method(owner, *args, **kwargs)

    return run
