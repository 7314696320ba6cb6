"""Samples that are malformed are refused wherever they are made; numbers of a run are whole and at least 1."""

import inspect
import json

import pytest

from steer.activations.splice import splice_loss
from steer.activations.stream import activation_batches
from steer.errors import DataError
from steer.evals.runner import evaluate
from steer.evals.sample import Sample, read_samples
from steer.evals.sets import load_prompts
from steer.features.trial import Trial
from steer.models.site import Site
from tests.conftest import random_sae

ASKED = ({"role": "user", "content": "?"},)
ANSWERED = (*ASKED, {"role": "assistant", "content": "!"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": ""}, "id must be a text"),
        ({"id": 3}, "id must be a text, got 3"),
        ({"set": None}, "set must be a text, got None"),
        ({"messages": ()}, "at least one message"),
        ({"messages": ANSWERED}, "'a': the last message must be the user's"),
        ({"messages": ({"role": "user"},)}, "a text as content"),
        ({"messages": "?"}, "the last message must be the user's"),
        ({"kind": "rhyme"}, "Unknown kind of sample 'rhyme'"),
        ({"kind": "number"}, "of kind 'number' must expect 'value'"),
        ({"kind": "number", "expect": {"value": "seven"}}, "'value' must be a finite number, got 'seven'"),
        ({"kind": "number", "expect": {"value": "1e999"}}, "'value' must be a finite number"),
        ({"kind": "number", "expect": {"value": True}}, "'value' must be a finite number"),
        ({"kind": "number", "expect": {"value": None}}, "'value' must be a finite number"),
        ({"kind": "choice", "expect": {"choices": ["A", "B"]}}, "must expect 'answer'"),
        ({"kind": "choice", "expect": {"choices": "AB", "answer": 0}}, "'choices' must be a list of texts"),
        ({"kind": "choice", "expect": {"choices": ["A", ""], "answer": 0}}, "'choices' must be a list of texts"),
        ({"kind": "choice", "expect": {"choices": [], "answer": 0}}, "'choices' must be a list of texts"),
        ({"kind": "choice", "expect": {"choices": ["A", "B"], "answer": 2}}, "one of the choices, from 0, got 2"),
        ({"kind": "choice", "expect": {"choices": ["A", "B"], "answer": -1}}, "index of one of the choices"),
        ({"kind": "choice", "expect": {"choices": ["A", "B"], "answer": "A"}}, "index of one of the choices"),
        ({"kind": "mentions", "expect": {"any": "dog"}}, "'any' must be a list of texts"),
        ({"kind": "mentions", "expect": {"any": [3]}}, "'any' must be a list of texts"),
    ],
)
def test_malformed_samples_are_refused_when_they_are_made(tmp_path, change, words):
    fields = {"id": "a", "set": "s", "messages": ASKED, "kind": "refusal", "expect": {}, "tags": {}, **change}
    with pytest.raises(DataError, match=words):
        inspect.unwrap(Sample.__init__)(object.__new__(Sample), **fields)


@pytest.mark.parametrize("change", [{"messages": 3}, {"expect": "refusal"}, {"expect": None}, {"tags": []}])
def test_fields_of_a_file_that_have_another_type_are_refused(tmp_path, change):
    row = {"id": "a", "set": "s", "messages": list(ASKED), "expect": {"kind": "refusal"}, **change}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"prompts.jsonl, sample 1: expected a list of messages and objects"):
        read_samples(tmp_path / "prompts.jsonl")


def test_the_place_of_a_malformed_sample_is_named(tmp_path):
    rows = [
        {"id": i, "set": "s", "messages": list(ASKED), "expect": {"kind": "number", "value": value}}
        for i, value in enumerate(("7", "seven"))
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"prompts.jsonl, sample 2: Sample '1': 'value' must be a finite number"):
        read_samples(tmp_path / "prompts.jsonl")


@pytest.mark.parametrize("number", [0, -1, True])
def test_sizes_below_one_are_refused(llama, number):
    samples, texts, site = [Sample("a", "s", ASKED, "refusal")], llama.encode(["some words"]), Site(1)
    for call in (
        lambda: evaluate(llama, samples, batch_size=number),
        lambda: evaluate(llama, samples, max_new_tokens=number),
        lambda: load_prompts("safe", limit=number),
        lambda: Trial(llama, random_sae(), site, samples, samples, 4, batch_size=number),
        lambda: splice_loss(llama, random_sae(), site, texts, batch_size=number),
        lambda: next(activation_batches(llama, site, texts, number)),
    ):
        with pytest.raises(DataError, match="must be a whole number of at least 1"):
            call()


def test_a_batch_larger_than_its_buffer_is_refused(llama):
    with pytest.raises(DataError, match="buffer_tokens must be a whole number of at least 64"):
        next(activation_batches(llama, Site(1), llama.encode(["some words"]), 64, buffer_tokens=63))


def test_texts_of_one_token_have_no_loss(llama):
    with pytest.raises(DataError, match="texts of at least two tokens"):
        splice_loss(llama, random_sae(), Site(1), [[5], [6]])


def test_the_first_prompts_of_a_set_or_of_all():
    assert [one.set for one in load_prompts("safe", limit=3)] == ["safe"] * 3
    assert load_prompts("safe", limit=2) == load_prompts("safe")[:2]
    with pytest.raises(DataError, match="Unknown split 'train'"):
        inspect.unwrap(load_prompts)(split="train")
