"""From text to activations, and what a reconstruction costs the model."""

import gzip
import json

import pytest
import torch

import saes
from saes import SAEConfig, TrainConfig
from steer.activations.splice import splice_loss
from steer.activations.stream import activation_batches, activation_rows
from steer.activations.text import embedded_corpus, read_texts
from steer.errors import DataError
from steer.models.site import Site
from tests.conftest import random_sae

SITE = Site(1)


def texts(lm, count=12):
    return lm.encode(["<bos>" + "some words, " * (1 + i % 5) + str(i) for i in range(count)])


def test_rows_are_the_activations_of_real_tokens_without_the_first(lm):
    rows = torch.cat(list(activation_rows(lm, SITE, texts(lm))))
    assert len(rows) == sum(len(ids) - 1 for ids in texts(lm))
    alone = lm.activations(lm.pad([texts(lm)[0]]), [SITE])[SITE][0, 1:]
    for x in alone:
        assert (rows - x).norm(dim=-1).min() < 1e-3


def test_batches_are_mixed_endless_and_depend_on_the_seed_alone(llama):
    def some(seed, count=6):
        stream = activation_batches(llama, SITE, texts(llama), 64, seed, buffer_tokens=256, keep_bytes=0)
        return torch.stack([batch for batch, _ in zip(stream, range(count), strict=False)])

    assert torch.equal(some(0), some(0))
    assert not torch.equal(some(0), some(1))
    assert some(0).shape == (6, 64, llama.d_model)
    every = torch.cat(list(activation_rows(llama, SITE, texts(llama))))
    assert torch.cdist(some(0).flatten(0, 1), every).min(dim=1).values.max() < 1e-2, "only activations of the texts"


def test_sites_may_be_named(llama):
    sae = random_sae(llama.d_model, d_sae=32)
    for one, named in zip(
        *(activation_rows(llama, where, texts(llama)) for where in (SITE, "1.resid_post")), strict=True
    ):
        assert torch.equal(one, named)
    assert splice_loss(llama, sae, SITE, texts(llama)) == splice_loss(
        llama, sae, "blocks.1.hook_resid_post", texts(llama)
    )
    with llama.edited({"1.resid_post": lambda x, _: x * 0}) as attachment:
        llama.forward(llama.pad([[5, 6]]))
    assert list(attachment.edits) == [SITE]


def test_a_batch_does_not_change_after_it_was_handed_out(llama):
    stream = activation_batches(llama, SITE, texts(llama), 64, buffer_tokens=128, keep_bytes=0)
    first = next(stream)
    copy = first.clone()
    next(stream), next(stream)
    assert torch.equal(first, copy)


def test_training_on_a_model_is_bit_identical_for_a_seed(llama):
    def trained():
        stream = activation_batches(llama, SITE, texts(llama), 64, 5, buffer_tokens=256, keep_bytes=0)
        return saes.fit(SAEConfig(llama.d_model, 64, 4), stream, TrainConfig(64 * 10, 64, lr=1e-3, seed=5))

    assert all(torch.equal(a, b) for a, b in zip(trained().parameters(), trained().parameters(), strict=True))


def test_a_perfect_reconstruction_loses_nothing_and_a_random_one_does(llama):
    perfect = random_sae(d_sae=2 * llama.d_model, k=llama.d_model)
    with torch.no_grad():  # a = relu([x, -x]) and x_hat = a [1; -1] give x back exactly
        eye = torch.eye(llama.d_model)
        perfect.W_enc.copy_(torch.cat([eye, -eye], 1))
        perfect.W_dec.copy_(torch.cat([eye, -eye]))
        perfect.b_enc.zero_()
        perfect.b_dec.zero_()
    loss = splice_loss(llama, perfect, SITE, texts(llama))
    assert loss.spliced == pytest.approx(loss.plain, rel=1e-5)
    assert loss.recovered == pytest.approx(1, abs=1e-3)
    assert splice_loss(llama, random_sae(), SITE, texts(llama)).spliced != pytest.approx(loss.plain, rel=1e-3)


def test_losses_of_padded_texts_equal_those_by_hand_one_by_one(llama):
    sae, rows = random_sae(), [texts(llama)[i] for i in (0, 3, 4)]

    def by_hand(edit):
        total = count = 0
        for ids in rows:
            tokens = llama.pad([ids])
            with llama.edited({SITE: edit} if edit else {}):
                logprobs = llama.forward(tokens)[0].log_softmax(-1)
            total -= sum(logprobs[i, token].item() for i, token in enumerate(ids[1:]))
            count += len(ids) - 1
        return total / count

    def but_the_first(new):
        return lambda x, at: torch.cat([x[:, :1], new(x[:, 1:])], 1)

    loss = splice_loss(llama, sae, SITE, rows)
    assert loss.plain == pytest.approx(by_hand(None), rel=1e-4)
    assert loss.spliced == pytest.approx(by_hand(but_the_first(sae)), rel=1e-4)
    assert loss.zeroed == pytest.approx(by_hand(but_the_first(torch.zeros_like)), rel=1e-4)
    assert loss.recovered == pytest.approx((loss.zeroed - loss.spliced) / (loss.zeroed - loss.plain))
    with pytest.raises(DataError, match="got none"):
        splice_loss(llama, sae, SITE, [])


def test_no_text_is_an_error_and_not_an_endless_search(llama):
    with pytest.raises(DataError, match="no text of at least two tokens"):
        next(activation_batches(llama, SITE, [], 8))


def test_activations_that_fit_are_computed_once_and_each_reading_is_a_random_order_of_all(llama, monkeypatch):
    rows = texts(llama)
    every = torch.cat(list(activation_rows(llama, SITE, rows)))
    passes = []
    forward = llama.activations
    monkeypatch.setattr(type(llama), "activations", lambda self, *given: passes.append(1) or forward(*given))
    stream = activation_batches(llama, SITE, rows, len(every), seed=3)
    first = next(stream)
    count = len(passes)
    second, third = next(stream), next(stream)
    assert len(passes) == count > 0
    for batch in (first, second, third):
        assert torch.equal(batch.sort(0).values, every.sort(0).values)
    assert not torch.equal(first, second)
    assert torch.equal(first, next(activation_batches(llama, SITE, rows, len(every), seed=3)))


def test_batches_of_kept_activations_go_over_the_end_of_a_reading(llama):
    rows = texts(llama)
    every = torch.cat(list(activation_rows(llama, SITE, rows)))
    size = len(every) // 2 + 1
    stream = activation_batches(llama, SITE, rows, size, seed=3)
    both = torch.cat([next(stream), next(stream)])[: len(every)]
    assert torch.equal(both.sort(0).values, every.sort(0).values)
    long = activation_batches(llama, SITE, rows, 2 * len(every) + 1, seed=3)
    assert len(next(long)) == 2 * len(every) + 1


def test_documents_begin_with_the_first_token_once_and_equal_ones_are_read_once(llama, tmp_path):
    path = tmp_path / "texts.jsonl"
    rows = [{"text": "hello"}, {"text": "<bos>hello"}, {"text": "word " * 100}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    hello, long = read_texts(path, llama)
    assert hello[0] == llama.tokenizer.bos_token_id
    assert hello.count(llama.tokenizer.bos_token_id) == 1
    assert len(long) == llama.context == 128


def test_plain_loss_equals_that_of_transformers(llama):
    ids = texts(llama)[3]
    ours = splice_loss(llama, random_sae(), SITE, [ids]).plain
    tokens = torch.tensor([ids])
    assert ours == pytest.approx(llama.model(input_ids=tokens, labels=tokens).loss.item(), rel=1e-4)


def test_the_embedded_corpus_is_read(embedded):
    found = read_texts(embedded_corpus(), embedded)
    assert len(found) > 5000
    assert sum(map(len, found)) > 250_000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no text"),
        (b'{"other": 1}\n', "line 1: expected"),
        (b"not json\n", "cannot be read as JSON lines"),
        (b"\xff\xfe\n", "cannot be read as JSON lines"),
    ],
)
def test_bad_text_files_are_refused(llama, tmp_path, content, words):
    path = tmp_path / "texts.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_texts(path, llama)
    with pytest.raises(DataError, match="no such file"):
        read_texts(tmp_path / "absent.jsonl", llama)


def test_a_cut_off_archive_is_refused_and_a_whole_one_is_read(llama, tmp_path):
    path = tmp_path / "texts.jsonl.gz"
    line = json.dumps({"text": "hello there " * 50})
    path.write_bytes(gzip.compress((line + "\n").encode()))
    assert len(read_texts(path, llama)) == 1
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match="cannot be read"):
        read_texts(path, llama)
