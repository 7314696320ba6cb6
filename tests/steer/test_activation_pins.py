"""What the published figures of the demo rest on stays the same, bit for bit."""

import copy
import hashlib
import json

import pytest
import torch

from steer.activations.splice import splice_loss
from steer.activations.stream import activation_batches, activation_rows
from steer.activations.text import read_texts
from steer.models.site import Site
from tests.conftest import random_sae

SITE = Site(0, "resid_pre")  # the embeddings as they are: no arithmetic, so the same on every machine


@pytest.fixture
def counting(llama):
    """The tiny Llama with whole numbers as embeddings."""
    model = copy.deepcopy(llama)
    weight = model.model.get_input_embeddings().weight
    with torch.no_grad():
        weight.copy_((torch.arange(weight.numel()) % 8191).reshape(weight.shape).float())
    return model


@pytest.fixture
def path(tmp_path):
    found = tmp_path / "texts.jsonl"
    rows: list[dict] = [{"text": f"A document about {i}. " * (1 + i % 9)} for i in range(60)]
    for i in range(20):
        turns = [{"role": "user", "content": f"What of {i}?"}, {"role": "assistant", "content": "Nothing. " * (i % 5)}]
        rows.append({"messages": turns})
    found.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *rows[:7]]), encoding="utf-8")
    return found


def checksum(*tensors: torch.Tensor) -> str:
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in tensors)).hexdigest()[:16]


def test_texts_read_from_a_file_are_those_of_before(counting, path):
    texts = read_texts(path, counting)
    assert hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16] == "272cf56cd466485f"


def test_rows_and_batches_are_those_of_before(counting, path):
    texts = read_texts(path, counting)
    assert checksum(*activation_rows(counting, SITE, texts)) == "eccb5b474e6deffb"
    shuffled = activation_rows(counting, SITE, texts * 4, torch.Generator().manual_seed(3))
    assert checksum(*shuffled) == "4d3adfbc1a908594"
    for seed, expected in ((0, "0f29296fe5138d45"), (5, "adf5d56679d9cdf9")):
        batches = activation_batches(counting, SITE, texts, 96, seed, buffer_tokens=1024, keep_bytes=0)
        assert checksum(*(next(batches) for _ in range(60))) == expected


def test_batches_of_several_passes_are_those_of_before(counting, path):
    """More text than one pass takes, so the order of the passes is drawn too."""
    texts = [ids for ids in read_texts(path, counting) for _ in range(4)]
    batches = activation_batches(counting, SITE, texts, 500, 1, buffer_tokens=4000, keep_bytes=0)
    assert checksum(*(next(batches) for _ in range(90))) == "f4c8c172c6f592d3"


def test_the_spliced_loss_is_that_of_before(llama, path):
    loss = splice_loss(llama, random_sae(site="1.resid_post"), "1.resid_post", read_texts(path, llama)[:30])
    assert [loss.plain, loss.spliced, loss.zeroed] == pytest.approx([5.69996920, 5.68615141, 5.52798267], rel=1e-4)
