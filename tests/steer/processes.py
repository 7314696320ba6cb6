"""The command line on several processes, in the environment that torchrun gives: forks of the test, over gloo."""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from steer.cli.app import run

LIMIT_S = 250  # less than the time after which a silent process counts as gone: what ends so has been noticed before


@dataclass(frozen=True)
class Ended:
    """How a process has ended."""

    code: int
    """Its exit code, or minus the signal that killed it."""
    out: str
    err: str


def commands(
    size: int, folder: Path, arguments: list[str], kill: int | None = None, until: Callable[[], bool] = lambda: True
) -> list[Ended]:
    """Run the command line on ``size`` processes; process ``kill`` is killed as soon as ``until`` says so."""
    folder.mkdir(parents=True, exist_ok=True)
    _threads_ended()  # a fork beside a thread that computes may wait for a lock of its for ever
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun has
    children = [_forked(rank, size, str(store.port), folder, arguments) for rank in range(size)]
    if kill is not None:
        while not until() and os.waitid(os.P_PID, children[kill], os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.003)
        os.kill(children[kill], signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    told = [[(folder / f"{rank}.{name}").read_text() for name in ("out", "err")] for rank in range(size)]
    return [Ended(code, *one) for code, one in zip(codes, told, strict=True)]


def _threads_ended() -> None:
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()


def _forked(rank: int, size: int, port: str, folder: Path, arguments: list[str]) -> int:
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        signal.alarm(LIMIT_S)
        torch.set_num_threads(1)
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "GLOO_SOCKET_IFNAME": "lo",
        }
        with (folder / f"{rank}.out").open("w") as sys.stdout, (folder / f"{rank}.err").open("w") as sys.stderr:
            try:
                code = run(arguments)
            except BaseException:
                traceback.print_exc()
            _threads_ended()  # as when a program ends
    finally:
        os._exit(code)
