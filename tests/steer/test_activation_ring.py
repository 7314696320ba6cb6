"""The parts that mix and read ahead: the ring, orders without memory, the background thread."""

import gc
import threading
import time

import pytest
import torch

from steer.activations.ahead import Ahead
from steer.activations.permutation import permuted
from steer.activations.ring import ShuffleRing, distinct
from steer.errors import DataError


def numbered(first, count, sites=2, width=3):
    """Rows that say which row they are, and at which site."""
    rows = torch.arange(first, first + count).float().expand(sites, count)
    return (rows + 0.25 * torch.arange(sites).unsqueeze(-1)).unsqueeze(-1).repeat(1, 1, width)


def full_ring(slots=50, seed=0):
    ring = ShuffleRing(slots, 2, 3, seed=seed)
    for first in range(0, slots, 7):
        ring.put(numbered(first, min(7, slots - first)))
    return ring


def test_every_row_is_served_once_and_sites_stay_side_by_side():
    ring, served, put = full_ring(), [], 50
    for _ in range(30):
        batch = ring.serve(8)
        assert torch.equal(batch[1], batch[0] + 0.25)
        served += batch[0, :, 0].int().tolist()
        for count in (3, 5):
            ring.put(numbered(put, count))
            put += count
    assert ring.filled == 50
    assert ring.free == 0
    while ring.filled >= 8:  # the text has ended
        served += ring.serve(8)[0, :, 0].int().tolist()
    served += ring.serve(ring.filled)[0, :, 0].int().tolist()
    assert sorted(served) == list(range(put))
    assert served[:8] != sorted(served[:8])


def test_a_ring_that_is_partly_filled_serves_what_it_has():
    ring = ShuffleRing(100, 1, 3)
    ring.put(numbered(0, 20, sites=1))
    served = torch.cat([ring.serve(6), ring.serve(6), ring.serve(6)], 1)[0, :, 0].tolist()
    assert len(set(served)) == 18
    assert set(served) <= set(range(20))
    ring.put(numbered(20, 98, sites=1))
    assert sorted(ring.serve(100)[0, :, 0].tolist())[2:] == list(range(20, 118))


def test_the_order_depends_on_the_seed_alone():
    assert torch.equal(full_ring(seed=1).serve(20), full_ring(seed=1).serve(20))
    assert not torch.equal(full_ring(seed=1).serve(20), full_ring(seed=2).serve(20))


@pytest.mark.parametrize("stop", [0, 3, 7])
def test_a_ring_goes_on_bit_for_bit_and_its_state_is_a_copy(stop):
    def go_on(ring, batches, begin):
        found = []
        for number in range(batches):
            found.append(ring.serve(9))
            if begin + number < 8:
                ring.put(numbered(1000 * (begin + number), 9))
        return found

    ring = full_ring()
    go_on(ring, stop, 0)
    state = ring.state()
    expected = go_on(ring, 12 - stop, stop)
    other = ShuffleRing(50, 2, 3, seed=99)
    other.restore(state)
    assert all(torch.equal(a, b) for a, b in zip(expected, go_on(other, 12 - stop, stop), strict=True))


def test_what_does_not_fit_is_refused():
    ring = full_ring()
    for rows in (numbered(0, 1), numbered(0, 1, width=4), numbered(0, 1).double(), numbered(0, 1, sites=1)):
        with pytest.raises(DataError, match="0 of 50 slots free, for 2 sites of width 3"):
            ring.put(rows)
    with pytest.raises(DataError, match="holds 50 rows, 51 are asked for"):
        ring.serve(51)
    with pytest.raises(DataError, match=r"has shape \[2, 40, 3\] in torch.float32, this one \[2, 50, 3\]"):
        ring.restore(full_ring(40).state())
    with pytest.raises(DataError, match="slots must be a whole number"):
        ShuffleRing(0, 1, 1)


@pytest.mark.parametrize(("count", "below"), [(1, 1), (3, 4), (5, 10), (50, 101), (100, 100_000), (7, 7)])
def test_drawn_numbers_are_different_and_in_range(count, below):
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        found = distinct(count, below, generator)
        assert len(set(found.tolist())) == count
        assert 0 <= int(found.min()) <= int(found.max()) < below


def test_drawn_numbers_are_equally_likely_at_every_place():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([distinct(3, 8, generator) for _ in range(2000)])
    for place in range(3):
        assert (drawn[:, place].bincount(minlength=8) / 2000 - 1 / 8).abs().max() < 0.03


@pytest.mark.parametrize("size", [1, 2, 3, 16, 17, 1000, 65_537])
def test_an_order_holds_everything_once(size):
    for seed in ((0, 0), (0, 1), (7, 0)):
        assert torch.equal(permuted(torch.arange(size), size, seed).sort().values, torch.arange(size))


def test_orders_differ_by_seed_have_no_drift_and_can_be_looked_up_anywhere():
    orders = [permuted(torch.arange(5000), 5000, (seed, time)) for seed in (0, 1) for time in (0, 1)]
    for number, order in enumerate(orders):
        assert all((order == other).float().mean() < 0.01 for other in orders[:number])
        steps = order.diff().float()
        assert (steps.abs() < 50).float().mean() < 0.04, "neighbours come from anywhere"
        correlation = torch.corrcoef(torch.stack([order.float(), torch.arange(5000).float()]))[0, 1]
        assert abs(correlation) < 0.05
    assert torch.equal(permuted(torch.tensor([4000, 17]), 5000, (1, 1)), orders[3][[4000, 17]])


def test_items_come_in_order_and_no_more_than_depth_are_made_ahead():
    made = []

    def make(stop):
        for number in range(20):
            made.append(number)
            yield number

    ahead = Ahead(make, 3)
    assert next(ahead) == 0
    deadline = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert made == [0, 1, 2, 3, 4], "one handed out, three wait, one is on its way into the queue"
    assert list(ahead) == list(range(1, 20))
    assert list(ahead) == []


def test_an_error_comes_out_where_its_item_would_have():
    def make(stop):
        yield 1
        yield 2
        raise DataError("the file ends here")

    ahead = Ahead(make, 1)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(DataError, match="the file ends here"):
        next(ahead)
    assert list(ahead) == []


@pytest.mark.parametrize("how", ["close", "forget"])
def test_the_thread_ends_when_the_consumer_stops(how):
    def endless(stop):
        while True:
            yield 0

    before = set(threading.enumerate())
    ahead = Ahead(endless, 2)
    assert next(ahead) == 0
    [thread] = set(threading.enumerate()) - before
    if how == "close":
        ahead.close()
    else:
        del ahead
        gc.collect()
    thread.join(timeout=10)
    assert not thread.is_alive()
