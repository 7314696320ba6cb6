"""What is tuned on: examples from files, nested mixtures, which tokens the loss is on, and the loss itself."""

import dataclasses
import gzip
import json
from copy import deepcopy

import pytest
import torch

from saes.errors import ConfigError
from steer.errors import DataError
from steer.tuning.config import TuningConfig
from steer.tuning.examples import tokenised
from steer.tuning.mixture import mixed, order, safety_count
from steer.tuning.rows import read_examples
from steer.tuning.training import loss_sum
from tests.conftest import tiny_model
from tests.steer.tuning_data import write_examples

TALK = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yes?"},
    {"role": "user", "content": "assistant"},
    {"role": "assistant", "content": "ok then"},
]


def read(folder, general=24, safety=8):
    return [read_examples(path) for path in write_examples(folder, general, safety)]


def words(lm, example):
    return lm.tokenizer.decode([i for i, counted in zip(example.ids, example.counted, strict=True) if counted])


# files


def test_rows_of_all_kinds_become_conversations(tmp_path):
    rows = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Sing.", "output": "la"},
        {"messages": TALK},
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    lines = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    (tmp_path / "a.jsonl").write_text(lines)
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(lines)
    found = [read_examples(tmp_path / name) for name in ("a.json", "a.jsonl", "a.jsonl.gz")]
    assert found[0].conversations == found[1].conversations == found[2].conversations
    assert [row[0]["content"] for row in found[0].conversations] == ["Add.\n\n1 2", "Sing.", "be kind"]
    assert [row[-1]["content"] for row in found[0].conversations] == ["3", "la", "ok then"]
    assert len({one.sha256 for one in found}) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no example"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "line 1: a conversation to train on ends with"),
        ('{"instruction": "a", "output": " "}', "line 1: a conversation to train on ends with"),
        ('\n{"text": "a"}', "line 2: expected `messages`, or `instruction` and `output`; got text"),
        ('{"messages": 3}', "line 1: A prompt must be a text or a list"),
        ('{"instruction": 3, "output": "b"}', "must be texts"),
        ("[1]", "expected a JSON object, got list"),
        ("{", "line 1: cannot be read as JSON"),
    ],
)
def test_rows_that_are_none_are_named(tmp_path, text, words):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(DataError, match=words):
        read_examples(tmp_path / "a.jsonl")


def test_files_that_are_none_are_named(tmp_path):
    for name in ("none.jsonl", "x" * 300):
        with pytest.raises(DataError, match="there is no such file"):
            read_examples(tmp_path / name)
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DataError, match="expected a list of rows, got dict"):
        read_examples(tmp_path / "a.json")


# mixtures


@pytest.mark.parametrize(("general", "share", "count"), [(97, 0.03, 3), (19_400, 0.03, 600), (100, 0, 0), (9, 0.1, 1)])
def test_the_share_is_that_of_all_examples(general, share, count):
    assert safety_count(general, share) == count
    assert count / (general + count) == pytest.approx(share)


def test_larger_shares_hold_smaller_ones_and_the_same_is_held_back(tmp_path):
    general, safety = read(tmp_path, 200, 60)
    none, few, many = (mixed(general, safety, share, 0.1, 7) for share in (0.0, 0.03, 0.1))
    assert [len(one.safety) for one in (none, few, many)] == [0, 6, 20]
    assert none.general == few.general == many.general
    assert many.safety[:6] == few.safety
    for one in (none, few, many):
        assert (one.held_general, one.held_safety) == (none.held_general, none.held_safety)
        assert not [row for row in one.held_general if row in one.general]
        assert not [row for row in one.held_safety if row in one.safety]
        assert one.training == one.general + one.safety
    assert (len(none.held_general), len(none.held_safety)) == (20, 6)
    assert many.record == {
        "general": 180, "safety": 20, "share": 0.1, "held_general": 20, "held_safety": 6,
        "general_sha256": general.sha256, "safety_sha256": safety.sha256,
    }  # fmt: skip
    assert mixed(general, safety, 0.1, 0.1, 8).general != many.general
    assert mixed(general, None, 0.0, 0.0, 7).record["safety_sha256"] is None


def test_mixtures_that_cannot_be(tmp_path):
    general, safety = read(tmp_path, 100, 6)
    with pytest.raises(DataError, match=r"takes 11 safety examples, but 5 are there \(1 are kept for validation\)"):
        mixed(general, safety, 0.1, 0.05, 0)
    with pytest.raises(DataError, match="comes to no safety example"):
        mixed(general, safety, 0.001, 0.05, 0)


def test_each_epoch_reads_all_once_in_an_order_of_its_own():
    whole = order(7, 0, 21, 3)
    epochs = [whole[start : start + 7] for start in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    assert order(7, 5, 9, 3) == whole[5:14]
    assert order(7, 0, 7, 4) != whole[:7]


# tokens


def test_the_loss_is_on_what_the_assistant_says_and_on_what_ends_it(llama):
    (example,) = tokenised(llama, [TALK], 200, on_prompt=False)
    assert words(llama, example) == "yes?<|end|>ok then<|end|>"
    (every,) = tokenised(llama, [TALK], 200, on_prompt=True)
    assert every.ids == example.ids
    assert every.counted == (False, *[True] * (len(every.ids) - 1))


def test_what_lies_beyond_the_cutoff_is_cut_off_and_what_is_left_without_words_left_out(llama):
    (example,) = tokenised(llama, [TALK], 20, on_prompt=False)
    assert len(example.ids) == 20
    assert words(llama, example) == "yes?<|end|>"
    assert tokenised(llama, [TALK, TALK], 8, on_prompt=False) == []


def test_without_a_template_the_end_is_added():
    lm = tiny_model("llama", template=None)
    (example,) = tokenised(lm, [TALK[1:]], 200, on_prompt=False)
    assert words(lm, example) == "yes?ok then<|end|>"


def test_a_template_that_changes_what_is_said_is_refused_unless_all_tokens_count(llama):
    lm = deepcopy(llama)
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m.content | upper }}<|end|>{% endfor %}"
    with pytest.raises(DataError, match=r"Train on the prompt too: train_on_prompt\.$"):
        tokenised(lm, [TALK], 200, on_prompt=False)
    assert len(tokenised(lm, [TALK], 200, on_prompt=True)) == 1


# the loss


def test_the_loss_is_the_negative_log_likelihood_of_the_tokens_that_count(lm):
    talks = [TALK[1:], TALK[1:3], TALK[3:]]
    examples = tokenised(lm, talks, 200, on_prompt=False)
    model, expected = deepcopy(lm.model).double(), []
    for one in examples:
        with torch.no_grad():
            logprobs = model(torch.tensor([one.ids])).logits[0].log_softmax(-1)
        expected.append(-sum(logprobs[i - 1, one.ids[i]].item() for i, counts in enumerate(one.counted) if counts))
    with torch.no_grad():
        alone = [loss_sum(lm, [one]).item() for one in examples]
        together = loss_sum(lm, examples).item()
    assert alone == pytest.approx(expected, rel=1e-4)
    assert together == pytest.approx(sum(expected), rel=1e-4)


# settings


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"share": 3.0}, "share must be less than 1, got 3.0. Write 0.03 for 3 %"),
        ({"share": 0.1}, "there are no safety examples"),
        ({"share": float("nan"), "safety": "s"}, "share must be a finite number"),
        ({"rank": 0}, "rank must be a whole number of at least 1"),
        ({"lr": 0}, "lr must be more than 0"),
        ({"dropout": 1.0}, "dropout must be less than 1"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"cutoff": 1}, "cutoff must be a whole number of at least 2"),
        ({"target": ("",)}, "target must be a tuple of names"),
        ({"out": ""}, "out must be a path"),
    ],
)
def test_settings_that_cannot_work_are_named(given, words):
    with pytest.raises(ConfigError, match=words):
        TuningConfig(**{"data": "a.jsonl", "out": "b", **given})


def test_what_decides_a_run_are_its_settings_and_its_examples():
    config = TuningConfig("a.jsonl", "out")
    moved = dataclasses.replace(config, data="b.jsonl", out="c", device="cpu", keep=5, resume_from="d")
    assert moved.deciding({"general": 3}) == config.deciding({"general": 3})
    assert config.deciding({"general": 4}) != config.deciding({"general": 3})
    assert dataclasses.replace(config, micro_batch=1).deciding({}) != config.deciding({})
