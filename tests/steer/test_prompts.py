"""What callers give: prompts, templates, sampling settings, and logits that are no numbers."""

import gzip
import inspect
import json

import pytest
import torch

from steer.activations.text import read_texts
from steer.errors import DataError, ModelError, PlanError, SiteError
from steer.models.chat import as_conversation, as_conversations, render
from steer.models.decode import Sampling, _choose
from steer.models.site import Site
from tests.conftest import PROMPTS, byte_tokenizer

MESSAGE = {"role": "user", "content": "hello"}


def test_texts_and_conversations_may_be_mixed():
    assert as_conversations(["hello", [MESSAGE], (MESSAGE, MESSAGE)]) == [[MESSAGE], [MESSAGE], [MESSAGE, MESSAGE]]
    assert as_conversations([]) == []


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ("hello", r"must be a list, got str 'hello'. Write \[\"...\"\]"),
        (MESSAGE, "must be a list, got dict"),
        (None, "must be a list, got NoneType"),
        ([MESSAGE], "got a list of messages. Put the conversation into a list"),
        ([3], "a text or a list of at least one message, got int 3"),
        ([[]], "at least one message"),
        ([["hello"]], "needs a role .* got str 'hello'"),
        ([[{"role": "user"}]], "needs a role .* a text as content"),
        ([[{"role": "robot", "content": "x"}]], r"needs a role \(system, user, assistant\)"),
        ([[{"role": "user", "content": "x" * 500}, None]], "got NoneType None"),
    ],
)
def test_what_is_no_list_of_prompts_is_refused_with_advice(prompts, words):
    with pytest.raises(DataError, match=words) as caught:
        as_conversations(prompts)
    assert len(str(caught.value)) < 300


def test_a_single_text_is_no_list_of_letters(llama):
    with pytest.raises(DataError, match="must be a list"):
        llama.generate("hello")
    with pytest.raises(DataError, match="list of messages"):  # without the run-time type checks of the tests
        inspect.unwrap(type(llama).prompt_ids)(llama, [MESSAGE])
    assert as_conversation("hello") == [MESSAGE]


@pytest.mark.parametrize(
    ("template", "error", "words"),
    [
        ("{% if", ModelError, r"not valid Jinja \(line 1"),
        ("{{ messages.nothing.at.all }}", DataError, "refuses a conversation of user"),
        ("{{ messages[0].content + 1 }}", DataError, "refuses a conversation of user"),
    ],
)
def test_broken_templates_are_errors_of_ours(template, error, words):
    with pytest.raises(error, match=words):
        render(byte_tokenizer(template), [MESSAGE], reply=True)


def test_a_malformed_conversation_of_a_text_file_is_named_by_its_line(llama, tmp_path):
    path = tmp_path / "texts.jsonl.gz"
    rows = [{"messages": [MESSAGE]}, {"messages": [{"role": "user"}]}]
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    with pytest.raises(DataError, match="line 2: A message needs a role"):
        read_texts(path, llama)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": -0.1},
        {"top_p": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"seed": -1},
        {"seed": 2**62},
        {"max_new_tokens": 0},
        {"max_new_tokens": True},
    ],
)
def test_sampling_that_cannot_work(change):
    with pytest.raises(PlanError, match=next(iter(change))):
        Sampling(**change)


def test_a_tiny_temperature_takes_the_likeliest_token():
    logits = torch.randn(3, 50)
    for temperature in (1e-3, 1e-30, 1e-300):
        draw = [torch.Generator().manual_seed(i) for i in range(3)]
        assert torch.equal(_choose(logits, logits.max(-1), Sampling(temperature=temperature), draw), logits.argmax(-1))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_stop_the_generation(llama, value):
    """From the third reply token on, row 2 breaks; it is named as the caller counts rows."""

    def breaking(x, at):
        hit = at.generated & (at.positions >= at.positions.new_tensor(start)) & (at.rows == 2).unsqueeze(-1)
        return torch.where(hit.unsqueeze(-1), value, x)

    rows = llama.prompt_ids(PROMPTS)
    start = len(rows[2]) + 1
    with pytest.raises(DataError, match=r"logits for prompt 2 .*NaN or infinite at token 2 of the reply"):
        with llama.edited({Site(1): breaking}):
            llama.generate_ids(rows, Sampling(max_new_tokens=8))
    assert llama.attachments == []


def test_a_token_may_be_ruled_out(llama, monkeypatch):
    head = llama.model.lm_head
    handle = head.register_forward_hook(
        lambda module, args, output: output.index_fill(-1, torch.tensor([5]), -torch.inf)
    )
    try:
        assert len(llama.generate_ids(llama.prompt_ids(PROMPTS), Sampling(max_new_tokens=3))) == 4
    finally:
        handle.remove()


@pytest.mark.parametrize("layer", [-1, 2**70, True])
def test_layers_are_whole_numbers_from_zero(layer):
    with pytest.raises(SiteError, match="Layers count from 0"):
        Site(layer)


def test_a_site_of_another_type_or_of_a_thousand_digits_is_refused():
    with pytest.raises(SiteError, match=r"a Site or its name, such as 1\.resid_post, got int 1"):
        inspect.unwrap(Site.parse.__func__)(Site, 1)
    with pytest.raises(SiteError, match="Cannot read the site"):
        Site.parse("9" * 5000 + ".resid_post")
