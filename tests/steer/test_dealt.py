"""Passes of the model are dealt to processes: each makes its share, all get the batches of one, bit for bit."""

import copy
import os

import pytest
import torch

from saes import World, WorldError
from steer.activations.batch import StreamConfig
from steer.activations.policy import TokenPolicy
from steer.activations.reading import Reading
from steer.activations.resumable import ActivationStream
from steer.errors import DataError
from steer.models.site import Site
from tests.saes.ranks import ranks
from tests.steer.activation_data import source_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forks")

SITES = (Site(0), Site(1))


def stream_of(lm, source, world=World(), ahead=0, endless=False, **policy):  # noqa: B008  # it holds nothing
    reading = Reading(SITES, TokenPolicy(**policy), forward_tokens=200, window_rows=5)
    config = StreamConfig(batch_tokens=32, ring_tokens=300, ahead=ahead, endless=endless)
    return ActivationStream(lm, source, reading, config, world)


@pytest.fixture
def llama(llama):
    """A copy, since the tests put a method of their own in it."""
    return copy.deepcopy(llama)


def counted(lm):
    """The tokens of each pass that this process makes, in a list that grows."""
    made, read = [], lm.activations

    def activations(tokens, sites):
        made.append(int(tokens.mask.sum()))
        return read(tokens, sites)

    lm.activations = activations
    return made


def served(stream, count=10_000):
    return [torch.stack(list(batch.values())) for _, batch in zip(range(count), stream, strict=False)]


def equal(found, expected):
    return len(found) == len(expected) and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("size", "ahead", "policy"), [(2, 0, {}), (2, 2, {"max_norm_ratio": 1.05}), (3, 1, {})])
def test_each_makes_its_share_and_all_get_the_same(llama, tmp_path, size, ahead, policy):
    source = source_of("jsonl", tmp_path)
    made = counted(llama)
    expected = served(stream_of(llama, source, **policy))
    whole = sum(made)
    assert len(expected) > 30
    assert len(made) > 10

    def work(world):
        made.clear()
        found = served(stream_of(llama, source, world, ahead, **policy))
        return equal(found, expected), sum(made)

    outcomes = ranks(size, tmp_path / "ranks", work)
    assert all(same for same, _ in outcomes)
    shares = [tokens for _, tokens in outcomes]
    assert sum(shares) == whole, "every token once"
    assert max(shares) < 1.25 * whole / size


def test_they_go_on_from_the_state_of_any_number(llama, tmp_path):
    source = source_of("jsonl", tmp_path)
    expected = served(stream_of(llama, source, endless=True), 60)
    states = []

    def work(world, before, count):
        stream = stream_of(llama, source, world, ahead=1, endless=True)
        if states:
            stream.restore(states[-1])
        same = equal(served(stream, count), expected[before : before + count])
        return same, stream.state()

    for size, before, count in ((2, 0, 7), (3, 7, 8), (1, 15, 20), (2, 35, 25)):
        outcomes = ranks(size, tmp_path / "ranks", lambda world, args=(before, count): work(world, *args))
        assert all(same for same, _ in outcomes), (size, before)
        states.append(outcomes[-1][1])


def test_an_error_in_a_pass_of_one_is_raised_by_all_and_told_as_it_is(llama, tmp_path):
    source = source_of("jsonl", tmp_path)
    made = counted(llama)
    read = llama.activations

    def failing(tokens, sites):
        if len(made) == 2:
            raise DataError("the third pass fails")
        return read(tokens, sites)

    def work(world):
        made.clear()
        if world.rank == 1:
            llama.activations = failing
        stream = stream_of(llama, source, world, ahead=2)
        try:
            world.together(lambda: served(stream))  # as ``fit`` asks for batches
        except (DataError, WorldError) as error:
            return type(error), str(error)

    first, second = ranks(2, tmp_path / "ranks", work)
    assert first == (WorldError, "Process 1 of 2: the third pass fails")
    assert second == (DataError, "the third pass fails")
