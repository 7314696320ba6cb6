"""What the shuffle ring takes, counted: public trainers copy their buffer, or hold it in float32 for any model."""

import copy

import pytest
import torch

from steer.activations.batch import StreamConfig
from steer.activations.policy import TokenPolicy
from steer.activations.reading import Reading
from steer.activations.resumable import ActivationStream
from steer.activations.ring import ShuffleRing
from steer.models.site import Site
from tests.allocations import allocated
from tests.steer.activation_data import source_of

SITES = (Site(0), Site(1))


def test_what_is_counted_is_what_is_allocated():
    def work():
        first = torch.ones(1000)
        del first
        return torch.ones(500)

    assert allocated(work) == allocated(work)
    found = allocated(work)
    assert (found.peak, found.total, found.left) == (4000, 6000, 2000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_ring_takes_its_rows_and_nothing_more(dtype):
    found = allocated(lambda: ShuffleRing(10_000, 2, 16, dtype))
    assert found.peak == found.total == 10_000 * 2 * 16 * dtype.itemsize


def test_serving_and_filling_allocate_a_batch_however_large_the_ring_is():
    """Ten rounds out of a ring a hundred times as large allocate the same, and at once no more than a few batches."""
    batch, counts = torch.randn(2, 64, 16), {}
    for slots in (1000, 100_000):
        ring = ShuffleRing(slots, 2, 16)
        ring.put(torch.randn(2, slots, 16))
        counts[slots] = allocated(lambda ring=ring: [(ring.serve(64), ring.put(batch)) for _ in range(10)] and None)
    small, large = counts.values()
    assert large.total == pytest.approx(small.total, rel=0.05)  # numbers drawn twice are drawn again
    one = batch.nbytes + 64 * 8 * 2  # the rows, and where they are, once drawn and once as holes
    assert max(small.peak, large.peak) <= 11 * one  # ten served ones are kept until the end


def stream_of(lm, source, ring_tokens):
    reading = Reading(SITES, TokenPolicy(), forward_tokens=400, window_rows=12)
    return ActivationStream(lm, source, reading, StreamConfig(32, ring_tokens, ahead=0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stream_fills_its_ring_without_a_second_one(llama, tmp_path, dtype):
    """What comes on top of the ring, in the model's dtype, does not grow with it: the passes of the model."""
    lm = copy.deepcopy(llama)
    lm.model.to(dtype)
    source, beyond = source_of("jsonl", tmp_path, "packed", count=10), []
    next(stream_of(lm, source, 100))  # what is made once, such as masks, is there
    for ring_tokens in (800, 2400):  # both read all of the text, so both make its largest pass
        stream = stream_of(lm, source, ring_tokens)
        filled = allocated(lambda stream=stream: next(stream))
        ring = ring_tokens * len(SITES) * lm.d_model * dtype.itemsize
        rows = stream.state()["ring"]["rows"]
        assert (rows.nbytes, rows.dtype) == (ring, dtype)
        beyond.append(filled.peak - ring)
    assert beyond[1] == pytest.approx(beyond[0], rel=0.1)
