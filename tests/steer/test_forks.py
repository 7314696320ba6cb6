"""Work shared by forked processes: the same results, errors that arrive, no process left behind."""

import os
import signal
import sys
import time

import pytest
import torch
from torch import nn

from steer.errors import DataError, SteerError
from steer.forks import forked
from steer.threads import processes_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="work is only forked on Linux")


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(processes):
    def work(item):
        time.sleep(0.02 * (item % 3))
        return item * item

    assert list(forked(work, list(range(7)), processes)) == [item * item for item in range(7)]


def test_the_work_is_done_in_other_processes():
    pids = set(forked(lambda _: (time.sleep(0.05), os.getpid())[1], [0, 1, 2, 3], 2))
    assert os.getpid() not in pids
    assert len(pids) == 2


def test_tensors_come_back_bit_for_bit():
    weight = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    inputs = [torch.randn(5, 32, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    shared = forked(lambda x: (x @ weight).numpy(), inputs, 2)
    assert all((torch.from_numpy(found) == x @ weight).all() for found, x in zip(shared, inputs, strict=True))


def test_an_error_arrives_as_it_was_raised():
    def work(item):
        if item == 2:
            raise DataError("no good")
        return item

    with pytest.raises(DataError, match="no good"):
        list(forked(work, [0, 1, 2, 3], 2))


def test_an_error_that_cannot_be_sent_arrives_as_text():
    class LocalError(Exception):
        pass

    def work(item):
        raise LocalError(f"item {item}")

    with pytest.raises(SteerError, match="LocalError: item"):
        list(forked(work, [0, 1], 2))


def test_a_process_that_is_killed_is_told_of():
    def work(item):
        if item == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    with pytest.raises(SteerError, match="code -9"):
        list(forked(work, [0, 1], 2))


def test_no_process_is_left_when_the_iteration_ends_early():
    results = forked(lambda item: (os.getpid(), time.sleep(60 * item))[0], [0, 1, 2], 2)
    first = next(results)
    results.close()
    deadline = time.time() + 10
    while _alive(first) and time.time() < deadline:
        time.sleep(0.05)
    assert not _alive(first)


def test_with_several_threads_of_torch_nothing_is_forked():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert set(forked(lambda _: os.getpid(), [0, 1, 2], 2)) == {os.getpid()}
        assert processes_for(nn.Linear(2, 2), 2) == 1
    finally:
        torch.set_num_threads(before)


def test_a_process_that_leaves_without_a_result_is_told_of():
    with pytest.raises(SteerError, match="ended without its results"):
        list(forked(lambda _: sys.exit(0), [0, 1], 2))


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_small_model_on_a_cpu_gets_a_process_for_each_cpu(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert processes_for(nn.Linear(2, 2)) == 3
    assert processes_for(nn.Linear(2, 2), 2) == 2
    with torch.device("meta"):
        assert processes_for(nn.Linear(2, 2)) == 1  # not on the CPU
