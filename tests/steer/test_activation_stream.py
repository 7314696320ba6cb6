"""Streams of activations: what they hold, in which order, and that they go on bit for bit."""

import copy
import io
import random
import threading

import pytest
import torch

import saes
from saes import SAEConfig, TrainConfig
from steer.activations.batch import StreamConfig
from steer.activations.policy import TokenPolicy
from steer.activations.reading import Reading, blocks
from steer.activations.resumable import ActivationStream
from steer.activations.rows import Rules, token_rows
from steer.activations.sources.local import FileSource
from steer.activations.sources.opened import open_source
from steer.errors import DataError, SiteError
from steer.models.site import Site
from tests.steer.activation_data import KINDS, source_of, write_lines

SITES = (Site(0), Site(1, "resid_pre"), Site(1))


def stream_of(lm, source, sites=SITES[:1], policy=None, forward_tokens=400, window_rows=12, **config):
    reading = Reading(sites, TokenPolicy(**(policy or {})), forward_tokens, window_rows)
    return ActivationStream(lm, source, reading, StreamConfig(**{"batch_tokens": 32, "ring_tokens": 100, **config}))


def take(stream, count):
    return [torch.stack(list(next(stream).values())) for _ in range(count)]


def equal(found, expected):
    return len(found) == len(expected) and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def stored(state):
    """The state after a way through a file that holds nothing but JSON data and tensors."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("form", ["packed", "documents", "chat"])
@pytest.mark.parametrize("ahead", [0, 2])
def test_once_through_serves_every_token_that_counts_and_no_other(llama, tmp_path, form, ahead):
    source = source_of("jsonl", tmp_path, form, count=12)
    roles = "assistant" if form == "chat" else "all"
    policy = {"form": form, "roles": roles, "context_size": 40}
    stream = stream_of(llama, source, SITES, policy, batch_tokens=5, endless=False, ahead=ahead)
    served = torch.cat([torch.stack(list(batch.values())) for batch in stream], 1)
    expected = []
    for row, _ in token_rows(llama, source, Rules.of(TokenPolicy(**policy), llama)):
        found = llama.activations(llama.pad([row.ids]), SITES)
        expected.append(torch.stack([found[site][0][row.counts] for site in SITES]))
    expected = torch.cat(expected, 1)
    assert served.shape[1] == expected.shape[1] - expected.shape[1] % 5
    wide_served, wide = served.transpose(0, 1).flatten(1), expected.transpose(0, 1).flatten(1)
    distance, nearest = torch.cdist(wide_served, wide).min(1)
    assert distance.max() < 1e-2, "sites of one token side by side"
    assert len(nearest.unique()) > 0.8 * len(nearest), "no token is served for all others"


def test_batches_are_in_the_dtype_of_the_model_and_do_not_change(llama, tmp_path):
    half = copy.deepcopy(llama)
    half.model.to(torch.bfloat16)
    stream = stream_of(half, source_of("jsonl", tmp_path), SITES)
    batch = next(stream)
    before = {site: x.clone() for site, x in batch.items()}
    take(stream, 10)
    assert list(batch) == list(SITES)
    for site, x in batch.items():
        assert x.dtype == torch.bfloat16
        assert x.shape == (32, llama.d_model)
        assert torch.equal(x, before[site])


def test_the_order_depends_on_the_seed_and_not_on_reading_ahead(llama, tmp_path):
    source = source_of("jsonl", tmp_path)
    expected = take(stream_of(llama, source, ahead=0), 40)
    assert equal(take(stream_of(llama, source, ahead=3), 40), expected)
    assert not equal(take(stream_of(llama, source, seed=1), 40), expected)


@pytest.mark.parametrize("form", ["packed", "chat"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_goes_on_bit_for_bit_from_wherever_it_was_stopped(llama, tmp_path, kind, form):
    if (kind, form) == ("txt", "chat"):
        pytest.skip("plain text holds no conversations")
    source = source_of(kind, tmp_path, form, count=18)
    policy = {"form": form, "context_size": 48, "roles": "assistant" if form == "chat" else "all"}
    expected = take(stream_of(llama, source, SITES[::2], policy), 30)
    chance = random.Random(f"{kind} {form}")
    state, at = None, 0
    while at < 30:
        stream = stream_of(llama, source, SITES[::2], policy, ahead=chance.choice([0, 1, 3]))
        if state is not None:
            stream.restore(stored(state))
        count = min(chance.randint(0, 12), 30 - at)
        assert equal(take(stream, count), expected[at : at + count])
        at += count
        state = stream.state()
        stream.close()


def test_a_stream_that_ends_goes_on_too_and_what_came_after_the_state_is_no_part_of_it(llama, tmp_path):
    source = source_of("jsonl", tmp_path)
    expected = [x[SITES[0]] for x in stream_of(llama, source, endless=False)]
    stream = stream_of(llama, source, endless=False)
    take(stream, len(expected) - 3)
    state = stream.state()
    last = [x[SITES[0]] for x in stream]
    assert equal(last, expected[-3:])
    stream.restore(state)
    assert equal([x[SITES[0]] for x in stream], last)
    state = stream.state()
    stream.restore(stored(state))
    assert list(stream) == []
    assert list(stream) == []


def test_a_norm_filter_leaves_out_the_tokens_above_it_also_after_a_stop(llama, tmp_path):
    source = source_of("jsonl", tmp_path)
    everything = torch.cat([x for x, _ in blocks(llama, source, Reading(SITES[0]), endless=False)], 1)[0]
    policy = {"max_norm_ratio": 1.05}
    first, _ = next(blocks(llama, source, Reading(SITES[0], forward_tokens=400, window_rows=12)))
    limit = 1.05 * first[0].norm(dim=-1).median()
    assert 0.02 < (everything.norm(dim=-1) > limit).float().mean() < 0.5
    stream = stream_of(llama, source, policy=policy, batch_tokens=1, ring_tokens=60, endless=False)
    head = take(stream, 100)
    state = stream.state()
    tail = take(stream, 100)
    stream.restore(stored(state))
    assert equal(take(stream, 100), tail)
    served = torch.cat([*head, *tail, *(torch.stack(list(x.values())) for x in stream)], 1)[0]
    assert served.norm(dim=-1).max() <= limit
    assert len(served) == (everything.norm(dim=-1) <= limit).sum()


def test_outliers_at_one_site_leave_out_the_token_at_all_and_what_is_not_finite_stays():
    from steer.activations.reading import _ordinary

    block = torch.ones(2, 5, 4)
    block[0, 1] *= 10
    block[1, 2] *= 10
    block[0, 3, 0] = float("nan")
    block[1, 4, 0] = float("inf")
    assert _ordinary(block, [2.0, 2.0], 3.0).tolist() == [True, False, False, True, True]


def test_one_pass_gives_all_sites_and_stops_above_the_last(llama, tmp_path):
    ran = []
    handles = [
        block.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, block in enumerate(llama.layout.blocks)
    ]
    try:
        stream = stream_of(llama, source_of("jsonl", tmp_path), (Site(0), Site(1)), ahead=0)
        take(stream, 20)
    finally:
        for handle in handles:
            handle.remove()
    assert set(ran) <= {0, 1}
    assert ran.count(0) >= ran.count(1) > 1


def test_the_stream_of_one_site_is_what_fit_takes(llama, tmp_path):
    source = source_of("jsonl", tmp_path)
    stream = stream_of(llama, source)
    sae = saes.fit(SAEConfig(llama.d_model, 64, 4), stream.only("0.resid_post"), TrainConfig(32 * 5, 32, lr=1e-3))
    assert sae.config.d_in == llama.d_model
    expected = take(stream_of(llama, source), 6)
    assert equal([next(stream.only())], [expected[5][0]]), "fit took five batches"
    with pytest.raises(DataError, match=r"does not have 2\.resid_post, but 0\.resid_post"):
        stream.only(Site(2))
    with pytest.raises(DataError, match="has 3 sites: name one of 0"):
        stream_of(llama, source, SITES).only()


def test_an_edited_model_is_not_read(llama, tmp_path):
    """Neither in the background, while something else is measured, nor when batches are asked for."""
    source = source_of("jsonl", tmp_path)
    expected = take(stream_of(llama, source, ahead=0), 60)
    stream = stream_of(llama, source, ahead=2)
    found = []
    for number in range(60):
        if number % 7 == 3:
            with llama.edited({SITES[0]: lambda x, _: x * 0}):
                llama.forward(llama.pad([[5, 6, 7]]))
                with pytest.raises(DataError, match="Edits were put on the model"):
                    next(stream)
        found += take(stream, 1)
    assert equal(found, expected)
    for batch in (found, expected):
        assert all(x.abs().sum(-1).min() > 0 for x in batch)


def test_a_stream_opened_in_a_steered_block_reads_the_steered_model(llama, tmp_path):
    with llama.edited({Site(0): lambda x, _: x * 0 + 1}):
        batch = next(stream_of(llama, source_of("jsonl", tmp_path), ahead=2))
    assert (batch[Site(0)] == 1).all()


def test_an_error_in_the_text_comes_out_and_the_stream_goes_on_when_it_is_mended(llama, tmp_path):
    path = tmp_path / "a.jsonl"
    data = [{"text": f"text {i} " * 9} for i in range(60)]
    write_lines(path, data)
    expected = take(stream_of(llama, open_source(path)), 40)
    good = path.read_bytes()
    path.write_bytes(good[:2000] + b"\x00" + good[2001:])
    for ahead in (0, 2):
        stream, found = stream_of(llama, open_source(path), ahead=ahead), []
        with pytest.raises(DataError, match="cannot be read as JSON lines"):
            while True:
                found += take(stream, 1)
        with pytest.raises(DataError, match="cannot be read as JSON lines"):
            next(stream)
        path.write_bytes(good)
        found += take(stream, 40 - len(found))
        assert equal(found, expected)
        path.write_bytes(good[:2000] + b"\x00" + good[2001:])


def test_a_state_of_something_else_is_refused_with_the_field(llama, tmp_path, tiny):
    source = source_of("jsonl", tmp_path)
    stream = stream_of(llama, source)
    take(stream, 1)
    state = stream.state()
    write_lines(tmp_path / "b.jsonl", [{"text": "another text " * 20}])
    other = copy.deepcopy(llama)
    with torch.no_grad():
        other.model.get_input_embeddings().weight[0, 0] += 1
    for refusing, words in (
        (stream_of(llama, source, [Site(1)]), 'sites is ["0.resid_post"] there, but ["1.resid_post"] here'),
        (stream_of(llama, source, policy={"context_size": 30}), "policy does not fit: context_size is null there"),
        (stream_of(llama, source, ring_tokens=101), "ring_tokens is 100 there, but 101 here"),
        (stream_of(llama, open_source(tmp_path / "b.jsonl")), "dataset is "),
        (stream_of(other, source), "weights is "),
        (stream_of(tiny("gpt2"), source), "weights is "),
    ):
        with pytest.raises(DataError) as error:
            refusing.restore(state)
        assert words in str(error.value)
    with pytest.raises(DataError, match="version 0, expected 1"):
        stream.restore({**state, "version": 0})


def test_text_without_a_token_that_counts_is_an_error_and_not_an_endless_search(llama, tmp_path):
    write_lines(tmp_path / "a.jsonl", [{"text": ""}])
    for ahead in (0, 2):
        with pytest.raises(DataError, match="holds no token that counts"):
            next(stream_of(llama, open_source(tmp_path / "a.jsonl"), ahead=ahead))
    write_lines(tmp_path / "a.jsonl", [{"text": "some text"}])
    source = open_source(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="holds no token that counts"):
        next(stream_of(llama, source, policy={"exclude_ids": tuple(range(llama.vocabulary))}))


def test_a_site_that_is_not_there_and_settings_that_cannot_work_are_refused(llama, tmp_path):
    with pytest.raises(SiteError, match="out of range"):
        next(stream_of(llama, source_of("jsonl", tmp_path), [Site(9)]))
    with pytest.raises(DataError, match="ring_tokens must be a whole number of at least 64"):
        StreamConfig(batch_tokens=64, ring_tokens=63)
    with pytest.raises(DataError, match="each once"):
        Reading(("0.resid_post", "layers.0"))
    with pytest.raises(DataError, match="at least one site"):
        Reading(())
    assert Reading("1.resid_post").all_sites == (Site(1),)


def test_no_thread_is_left_when_a_stream_is_forgotten(llama, tmp_path):
    before = set(threading.enumerate())
    stream = stream_of(llama, source_of("jsonl", tmp_path), ahead=2)
    take(stream, 2)
    [thread] = set(threading.enumerate()) - before
    del stream
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_the_positions_of_sources_do_not_depend_on_where_files_lie(llama, tmp_path):
    """A run may go on after its text was moved."""
    (tmp_path / "old").mkdir()
    source = source_of("jsonl", tmp_path / "old")
    stream = stream_of(llama, source)
    take(stream, 3)
    state, expected = stream.state(), take(stream, 5)
    moved = FileSource("moved", ((tmp_path / "old" / "a.jsonl").rename(tmp_path / "b.jsonl"),))
    stream = stream_of(llama, moved)
    stream.restore(state)
    assert equal(take(stream, 5), expected)
