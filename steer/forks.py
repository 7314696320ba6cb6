"""The same work on many items at once, in copies of this process.

A small model keeps one core busy at most (``steer.threads``), so the way to use several is to run several batches or
conditions beside each other. A fork shares the model's memory, starts in milliseconds, and computes what this process
would have computed, bit for bit.
"""

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from steer.errors import SteerError

Item = TypeVar("Item")
Done = TypeVar("Done")
_PR_SET_PDEATHSIG = 1  # of prctl(2)


def can_fork() -> bool:
    """Whether the system can fork a process with threads safely enough: only Linux."""
    return sys.platform == "linux"


def available_cpus() -> int:
    """How many processes can share work: one for each CPU that may be used; 1 where they cannot be forked."""
    return len(os.sched_getaffinity(0)) if can_fork() else 1


def forked(work: Callable[[Item], Done], items: Sequence[Item], processes: int = 1) -> Iterator[Done]:
    """What ``work`` gives for each item, in the order of the items; with one process, here and one by one.

    Each process takes the next item that none has taken. ``work`` must not train (autograd's threads are not copied),
    and what it changes is lost but for what it returns, which must be picklable. Ending the iteration early ends the
    processes. Where torch works with several threads all is done here: its threads do not survive a fork.

    Raises:
        SteerError: a process died.
        Exception: what ``work`` raised.
    """
    waiting: dict[int, Done] = {}
    count = 0
    with closing(forked_as_done(work, items, processes)) as found:
        for place, done in found:
            waiting[place] = done
            while count in waiting:
                yield waiting.pop(count)
                count += 1


def forked_as_done(
    work: Callable[[Item], Done], items: Sequence[Item], processes: int = 1
) -> Generator[tuple[int, Done], None, None]:
    """The same, each result with the place of its item and as soon as it is there."""
    if processes <= 1 or len(items) <= 1 or not can_fork() or _has_threads():
        yield from ((place, work(item)) for place, item in enumerate(items))
        return
    fork = multiprocessing.get_context("fork")
    taken = fork.Value("q", 0)
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads; ours hold no lock of work's
        running: dict[Connection, Any] = {}
        for _ in range(min(processes, len(items))):
            ours, theirs = fork.Pipe(duplex=False)
            process = fork.Process(target=_child, args=(work, items, taken, theirs, os.getpid()), daemon=True)
            try:
                process.start()
            except OSError as error:
                raise SteerError(
                    f"No process can be started beside this one ({error}). Run with --processes 1."
                ) from None
            stack.callback(_end, process, ours)
            theirs.close()
            running[ours] = process
        yield from _as_done(running, len(items))


def _has_threads() -> bool:
    """Whether torch, if it is there, works with several threads."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.get_num_threads() > 1


def _as_done(running: dict[Connection, Any], count: int) -> Iterator[tuple[int, Any]]:
    done = 0
    while done < count:
        if not running:
            raise SteerError("The processes that shared the work ended without its results. Run with --processes 1.")
        for connection in wait(list(running)):
            assert isinstance(connection, Connection)
            try:
                number, found, error = connection.recv()
            except (EOFError, OSError):  # it ended, perhaps in the middle of a message
                process = running.pop(connection)
                process.join()
                if process.exitcode:
                    raise SteerError(
                        f"A process that shared the work ended with code {process.exitcode} (a negative one is a "
                        "signal; -9 often means that memory ran out). Run with --processes 1."
                    ) from None
                continue
            if error is not None:
                raise error
            yield number, found
            done += 1


def _child(work: Callable[[Any], Any], items: Sequence[Any], taken: Any, results: Connection, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to see, who then ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # whatever ends the parent ends us
    sys.stdout = sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)  # a thread of the parent may have held a lock
    while os.getppid() == parent:
        with taken.get_lock():
            place = taken.value
            taken.value += 1
        if place >= len(items):
            return
        try:
            message = pickle.dumps((place, work(items[place]), None))
        except Exception as error:
            results.send((place, None, _sendable(error)))
            return
        results.send_bytes(message)


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return SteerError(f"{type(error).__name__}: {error}")
    return error


def _end(process: Any, connection: Connection) -> None:
    process.terminate()
    process.join()
    connection.close()
