"""Processes that train together over gloo: forks of the test, one thread each."""

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from saes import SaesError, World


def ranks(
    size: int,
    folder: Path,
    work: Callable[[World], Any],
    shards: int = 1,
    timeout_s: float = 60,
    wait_for: int | None = None,
) -> list[Any]:
    """What ``work`` gives on each rank: a result, the error of ours that it raised, or a signal that killed it.

    With ``wait_for`` the rest is killed as soon as so many of the first are done, as a launcher does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    children = [_forked(rank, size, folder, work, shards, timeout_s) for rank in range(size)]
    outcomes: list[Any] = []
    for rank, child in enumerate(children):
        if wait_for is not None and rank >= wait_for:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            outcomes.append(signal.Signals(os.WTERMSIG(status)))
        else:
            assert os.WEXITSTATUS(status) == 0, (folder / f"rank-{rank}.txt").read_text()
            outcomes.append(pickle.loads((folder / f"rank-{rank}").read_bytes()))
    (folder / "meeting").unlink(missing_ok=True)
    return outcomes


def _forked(rank: int, size: int, folder: Path, work: Callable[[World], Any], shards: int, timeout_s: float) -> int:
    child = os.fork()
    if child:
        return child
    try:
        torch.set_num_threads(1)
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        meeting = f"file://{folder / 'meeting'}"
        try:
            with World.joined(rank, size, shards, "gloo", timeout_s, meeting) as world:
                outcome = work(world)
        except SaesError as error:
            outcome = error
        (folder / f"rank-{rank}").write_bytes(pickle.dumps(outcome))
    except BaseException:
        (folder / f"rank-{rank}.txt").write_text(traceback.format_exc())
        sys.stdout.flush()
        os._exit(1)
    os._exit(0)
