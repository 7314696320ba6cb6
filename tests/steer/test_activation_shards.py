"""Activations on disk: written once whatever interrupts, refused when damaged or of something else, read shuffled."""

import copy
import json
import os
import random
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from steer.activations import shards as shards_module
from steer.activations.batch import StreamConfig
from steer.activations.manifest import MANIFEST, read_manifest
from steer.activations.policy import TokenPolicy
from steer.activations.reading import Reading, blocks
from steer.activations.shard_source import ShardSource, served_rows
from steer.activations.shards import ShardConfig, write_shards
from steer.errors import DataError, OutputError
from steer.models.site import Site
from tests.steer.activation_data import source_of, write_lines

READING = Reading(("0.resid_post", "1.resid_post"), TokenPolicy(context_size=48), forward_tokens=300, window_rows=8)
CONFIG = ShardConfig(shard_tokens=200)
STREAM = StreamConfig(batch_tokens=60)


@pytest.fixture
def source(tmp_path):
    return source_of("jsonl", tmp_path, count=20)


@pytest.fixture
def folder(llama, source, tmp_path):
    """Shards of all tokens of the source."""
    write_shards(llama, source, READING, tmp_path / "shards", CONFIG)
    return tmp_path / "shards"


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stacked(batches):
    return [torch.stack(list(batch.values())) for batch in batches]


def equal(found, expected):
    return len(found) == len(expected) and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_shards_hold_the_activations_in_the_order_of_reading_with_a_manifest(llama, source, folder):
    expected = torch.cat([x for x, _ in blocks(llama, source, READING, endless=False)], 1)
    manifest = read_manifest(folder)
    parts = [load_file(folder / shard.file) for shard in manifest.shards]
    for number, site in enumerate(("0.resid_post", "1.resid_post")):
        assert torch.equal(torch.cat([part[site] for part in parts]), expected[number])
    assert manifest.complete
    assert manifest.tokens == expected.shape[1]
    assert [shard.tokens for shard in manifest.shards[:-1]] == [200] * (len(parts) - 1)
    data = json.loads((folder / MANIFEST).read_text())
    assert data["model"] == "tiny-llama"
    assert data["revision"] is None
    assert data["dtype"] == "float32"
    assert data["identity"]["sites"] == ["0.resid_post", "1.resid_post"]
    assert data["identity"]["policy"]["context_size"] == 48
    assert {"weights", "tokenizer", "dataset"} <= set(data["identity"])


@pytest.mark.parametrize("form", ["packed", "chat"])
@pytest.mark.parametrize("ahead", [0, 2])
def test_writing_goes_on_where_it_was_stopped_with_the_same_bytes(llama, tmp_path, form, ahead, monkeypatch):
    source = source_of("parquet", tmp_path, form, count=24)
    reading = Reading("1.resid_post", TokenPolicy(form, 48), 300, 8)
    config = ShardConfig(shard_tokens=110, ahead=ahead)
    write_shards(llama, source, reading, tmp_path / "whole", config)

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    calls = 0

    def stop_at_some(*arguments):
        nonlocal calls
        calls += 1
        if calls % 3 == 2:
            raise Stop
        return write(*arguments)

    write = shards_module.write_manifest
    for attempt in range(30):
        try:
            if attempt % 2:
                write_shards(llama, source, reading, tmp_path / "parts", config, on_shard=stop)
            else:  # the shard is there, and the manifest does not know yet
                monkeypatch.setattr(shards_module, "write_manifest", stop_at_some)
                write_shards(llama, source, reading, tmp_path / "parts", config)
        except Stop:
            monkeypatch.setattr(shards_module, "write_manifest", write)
            continue
        break
    assert attempt > 3
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    before = files(tmp_path / "whole")
    write_shards(llama, source, reading, tmp_path / "whole", config, on_shard=stop)
    assert files(tmp_path / "whole") == before, "what is complete is left alone"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_killed_at_any_moment_writing_goes_on_with_the_same_bytes(llama, source, folder, tmp_path):
    chance = random.Random(0)
    config = ShardConfig(shard_tokens=200, ahead=0)
    for _ in range(4):
        child = os.fork()
        if child == 0:
            try:
                write_shards(llama, source, READING, tmp_path / "parts", config, on_shard=lambda _: time.sleep(0.05))
            finally:
                os._exit(0)
        time.sleep(chance.uniform(0.05, 0.4))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    write_shards(llama, source, READING, tmp_path / "parts", config)
    left = files(tmp_path / "parts")
    assert {name: data for name, data in left.items() if not name.startswith(".")} == files(folder)


def test_no_more_tokens_are_written_than_wanted(llama, source, tmp_path):
    manifest = write_shards(llama, source, READING, tmp_path / "s", ShardConfig(shard_tokens=100, max_tokens=250))
    assert [shard.tokens for shard in manifest.shards] == [100, 100, 50]
    with pytest.raises(DataError, match="max_tokens is 250 there, but 300 here"):
        write_shards(llama, source, READING, tmp_path / "s", ShardConfig(shard_tokens=100, max_tokens=300))


def test_a_folder_of_something_else_is_not_continued_but_refused_with_the_field(llama, source, folder, tmp_path):
    before = files(folder)
    for reading, words in (
        (Reading("1.resid_post", READING.policy, 300, 8), r"sites is \[\"0.resid_post"),
        (Reading(READING.sites, TokenPolicy(context_size=40), 300, 8), "policy does not fit: context_size is 48 there"),
        (Reading(READING.sites, READING.policy, 301, 8), "forward_tokens is 300 there"),
    ):
        with pytest.raises(DataError, match=words):
            write_shards(llama, source, reading, folder, CONFIG)
    with llama.edited({Site(0): lambda x, _: x}):
        with pytest.raises(DataError, match="The model is steered"):
            write_shards(llama, source, READING, folder, CONFIG)
        llama.forward(llama.pad([[3]]))
    assert files(folder) == before


def test_one_run_at_a_time_writes(llama, source, folder):
    from steer.files import claimed

    with claimed(folder), pytest.raises(OutputError, match="Another run is writing"):
        write_shards(llama, source, READING, folder, CONFIG)


def test_all_rows_are_served_once_a_time_in_an_order_of_their_own(llama, source, folder):
    rows = torch.cat([x for x, _ in blocks(llama, source, READING, endless=False)], 1)
    total = rows.shape[1]
    stream = ShardSource(folder, StreamConfig(batch_tokens=10))
    served = torch.cat(stacked(next(stream) for _ in range(2 * total // 10)), 1)
    order = served_rows(torch.arange(served.shape[1]), total, seed=0)
    assert torch.equal(served, rows[:, order])
    assert torch.equal(order[:total].sort().values, torch.arange(total)), "each once before any comes again"
    assert (order[:500] == order[total : total + 500]).float().mean() < 0.05, "another order every time"
    text = order[:total] // 48  # which row of tokens, about
    assert (text[1:] == text[:-1]).float().mean() < 0.1, "neighbours come from different texts"
    once = stacked(ShardSource(folder, StreamConfig(batch_tokens=60, endless=False)))
    assert len(once) == total // 60
    assert not equal(once[:1], stacked([next(ShardSource(folder, StreamConfig(batch_tokens=60, seed=1)))]))


@pytest.mark.parametrize("endless", [True, False])
def test_stored_activations_go_on_bit_for_bit_from_wherever_they_were_stopped(folder, endless):
    config = StreamConfig(batch_tokens=23, endless=endless, seed=4)
    whole = ShardSource(folder, config)
    expected = stacked(next(whole) for _ in range(60)) if endless else stacked(whole)
    chance, state, found = random.Random(1), None, []
    while len(found) < len(expected):
        stream = ShardSource(folder, StreamConfig(23, endless=endless, seed=4, ahead=chance.choice([0, 2])))
        if state is not None:
            stream.restore(state)
        count = min(chance.randint(0, 15), len(expected) - len(found))
        found += stacked(next(stream) for _ in range(count))
        state = json.loads(json.dumps(stream.state()))
        stream.close()
    assert equal(found, expected)
    with pytest.raises(DataError, match="seed is 4 there, but 5 here"):
        ShardSource(folder, StreamConfig(23, seed=5)).restore(state)


def test_some_of_the_sites_can_be_read(folder):
    some = ShardSource(folder, STREAM, reading=Reading("1.resid_post", READING.policy))
    assert list(next(some)) == [Site(1)]
    assert next(some.only()).shape == (60, 32)


def test_a_manifest_that_does_not_fit_is_refused_with_the_field(llama, tiny, source, folder, tmp_path):
    ShardSource(folder, STREAM, llama, READING, source).close()
    write_lines(tmp_path / "b.jsonl", [{"text": "x"}])
    other = copy.deepcopy(llama)
    other.tokenizer.chat_template = None
    for arguments, words in (
        ({"lm": tiny("gpt2")}, "weights is "),
        ({"lm": other}, "tokenizer is "),
        (
            {"reading": Reading("2.resid_post", READING.policy)},
            r"sites are 0.resid_post, 1.resid_post there, without 2",
        ),
        ({"reading": Reading(READING.sites)}, "policy does not fit: context_size is 48 there, but null here"),
        ({"source": source_of("txt", tmp_path)}, "dataset is "),
    ):
        with pytest.raises(DataError, match=words):
            ShardSource(folder, STREAM, **arguments)


def test_a_shard_that_is_missing_cut_off_or_altered_is_refused_with_its_name(folder):
    path = folder / "shard-000001.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-4])
    with pytest.raises(DataError, match=r"shard-000001\.safetensors has \d+ bytes, expected \d+: it was cut off"):
        ShardSource(folder, STREAM, verify=False)
    path.write_bytes(good[:-4] + b"oops")
    with pytest.raises(DataError, match=r"shard-000001\.safetensors was altered: its sha256"):
        ShardSource(folder, STREAM)
    path.write_bytes(b"x" * len(good))
    with pytest.raises(DataError, match=r"shard-000001\.safetensors cannot be read"):
        ShardSource(folder, STREAM, verify=False)
    path.unlink()
    with pytest.raises(DataError, match=r"shard-000001\.safetensors cannot be read: No such file"):
        ShardSource(folder, STREAM)


def test_a_manifest_that_is_no_manifest_is_refused(folder, tmp_path):
    path = folder / MANIFEST
    data = json.loads(path.read_text())
    for content, words in (
        ("no json", "cannot be read"),
        ("[]", "has version None"),
        (json.dumps({**data, "version": 2}), "has version 2, this release reads version 1"),
        (json.dumps({**data, "shards": [{"file": "x"}]}), r"shards\.0\.tokens: Field required"),
        (json.dumps({**data, "complete": False}), "is not complete: call write_shards again"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=words):
            ShardSource(folder, STREAM)
    with pytest.raises(DataError, match=r"No activations at .*manifest\.json is missing"):
        ShardSource(tmp_path, STREAM)


def test_less_than_a_batch_is_refused(folder):
    with pytest.raises(DataError, match="tokens, a batch has 100000"):
        ShardSource(folder, StreamConfig(100_000, 100_000))


def test_half_precision_stays_half_precision(llama, source, tmp_path):
    half = copy.deepcopy(llama)
    half.model.to(torch.bfloat16)
    write_shards(half, source, READING, tmp_path / "half", CONFIG)
    stream = ShardSource(tmp_path / "half", STREAM, half)
    assert all(x.dtype == torch.bfloat16 for x in next(stream).values())
    with pytest.raises(DataError, match="weights is "):
        ShardSource(tmp_path / "half", STREAM, llama)
