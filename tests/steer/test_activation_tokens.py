"""From documents to rows of tokens, and which of them count."""

import copy
import json
from types import SimpleNamespace

import pytest

from steer.activations.policy import TokenPolicy
from steer.activations.roles import role_mask
from steer.activations.rows import Rules, token_rows
from steer.activations.sources.opened import open_source
from steer.errors import DataError
from steer.models.chat import render
from tests.steer.activation_data import conversations, source_of, texts, write_lines

BOS, END = 1, 2


def rows(lm, source, start=None, **policy):
    return list(token_rows(lm, source, Rules.of(TokenPolicy(**policy), lm), start))


def without_bos(lm, eos=True):
    """The same model with a tokenizer that has no token to begin with."""
    other = copy.copy(lm)
    other.tokenizer = copy.deepcopy(lm.tokenizer)
    other.tokenizer.bos_token = None
    if not eos:
        other.tokenizer.eos_token = None
    return other


@pytest.mark.parametrize("size", [16, 33, 128])
def test_packed_rows_hold_every_token_of_every_document_once(llama, tmp_path, size):
    found = rows(llama, source_of("jsonl", tmp_path), context_size=size)
    assert all(len(row.ids) == size for row, _ in found[:-1])
    assert all(row.ids[0] == BOS and row.ids[1] != BOS for row, _ in found)
    joined = [token for row, _ in found for token in row.ids[1:] if token != BOS]
    assert joined == [token for ids in llama.encode(texts()) for token in ids]
    assert all(row.counts == [i > 0 and token != BOS for i, token in enumerate(row.ids)] for row, _ in found)


def test_documents_are_joined_by_the_end_where_there_is_no_beginning(llama, tmp_path):
    source = source_of("jsonl", tmp_path, count=3)
    [(row, _)] = rows(without_bos(llama), source)
    assert row.ids == [token for ids in llama.encode(texts(3)) for token in [END, *ids]][:128]
    assert row.counts == [token != END for token in row.ids]
    [(row, _)] = rows(without_bos(llama, eos=False), source)
    assert row.ids == [token for ids in llama.encode(texts(3)) for token in ids][:128]
    assert row.counts == [False] + [True] * (len(row.ids) - 1)


def test_documents_begin_once_and_are_cut(llama, tmp_path):
    write_lines(tmp_path / "a.jsonl", [{"text": "hello"}, {"text": "<bos>hello"}, {"text": "word " * 100}])
    found = [row.ids for row, _ in rows(llama, open_source(tmp_path / "a.jsonl"), form="documents", context_size=20)]
    assert found == [[BOS, *llama.encode(["hello"])[0]]] * 2 + [[BOS, *llama.encode(["word " * 100])[0]][:20]]


@pytest.mark.parametrize("form", ["packed", "documents", "chat"])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_rows_can_be_continued_from_every_position(llama, tmp_path, form, kind):
    source = source_of(kind, tmp_path, form, count=20)
    policy = {"form": form, "context_size": 50, "roles": "assistant" if form == "chat" else "all"}
    found = rows(llama, source, **policy)
    assert len(found) > 12
    for number in range(0, len(found), 3):
        position = json.loads(json.dumps(found[number][1]))
        assert rows(llama, source, position, **policy) == found[number + 1 :]


@pytest.mark.parametrize("role", ["assistant", "user"])
def test_what_a_role_says_counts_and_nothing_else(llama, tmp_path, role):
    found = rows(llama, source_of("jsonl", tmp_path, "chat", 30), form="chat", roles=role)
    for (row, _), conversation in zip(found, conversations(30), strict=True):
        said = [token for token, counts in zip(row.ids, row.counts, strict=True) if counts]
        words = "".join(turn["content"] for turn in conversation if turn["role"] == role)
        assert llama.tokenizer.decode(said) == words[: len(said)]
        assert len(said) == len(words) or len(row.ids) == llama.context


def test_all_of_a_conversation_counts_but_the_first_token(llama, tmp_path):
    found = rows(llama, source_of("jsonl", tmp_path, "chat", 5), form="chat")
    for (row, _), conversation in zip(found, conversations(5), strict=True):
        assert row.ids == llama.encode([render(llama.tokenizer, conversation, reply=False)])[0][:128]
        assert row.counts == [False] + [True] * (len(row.ids) - 1)


TEMPLATES = {
    "trimming": "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}<|end|>\n{% endfor %}",
    "wordy": "{% for m in messages %}{{ m.role }} says: {{ m.content }} (end of {{ m.role }}) {% endfor %}",
    "none": None,
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_words_of_a_template_are_nobodys_even_where_messages_say_the_same(llama, template):
    tokenizer = copy.deepcopy(llama.tokenizer)
    tokenizer.chat_template = template
    turns = [("user", "user"), ("assistant", "end"), ("user", "says:"), ("assistant", " end of user\n")]
    conversation = [{"role": role, "content": content} for role, content in turns]
    text = render(tokenizer, conversation, reply=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    last = "end of user" if "trim" in (template or "") else " end of user\n"
    for role, words in (("user", "usersays:"), ("assistant", "end" + last)):
        mask = role_mask(tokenizer, conversation, text, role)
        assert tokenizer.decode([token for token, own in zip(ids, mask, strict=True) if own]) == words


def test_a_template_that_changes_what_is_said_is_refused(llama):
    tokenizer = copy.deepcopy(llama.tokenizer)
    conversation = [{"role": "user", "content": "Hello"}]
    for template in (
        "{% for m in messages %}<|user|>{{ m.content | upper }}{% endfor %}",
        "<|user|>nothing",
        "{% for m in messages %}<|user|>{{ m.content }}{% if m.content == 'Hello' %}!{% endif %}{% endfor %}",
    ):
        tokenizer.chat_template = template
        with pytest.raises(DataError, match=r"changes what a message of the user says.*roles='all'"):
            role_mask(tokenizer, conversation, render(tokenizer, conversation, reply=False), "user")


def test_a_tokenizer_that_does_not_tell_where_its_tokens_lie_is_refused(llama):
    slow = SimpleNamespace(chat_template=None, bos_token="", is_fast=False)
    with pytest.raises(DataError, match="needs a tokenizer that tells where"):
        role_mask(slow, [{"role": "user", "content": "x"}], "User: x", "user")


def test_special_tokens_and_chosen_ids_can_be_left_out(llama, tmp_path):
    source = source_of("jsonl", tmp_path, "chat", 8)
    a = llama.encode(["a"])[0][0]
    for row, _ in rows(llama, source, form="chat", exclude_special=True, exclude_ids=(a,)):
        assert row.counts == [token > 5 and token != a for token in row.ids]
    for row, _ in rows(llama, source, form="chat", exclude_first=False):
        assert all(row.counts)
    for row, _ in rows(llama, source, context_size=20, exclude_first=False):
        assert all(row.counts)


def test_the_context_is_that_of_the_model_unless_chosen(llama, tmp_path):
    assert max(len(row.ids) for row, _ in rows(llama, source_of("jsonl", tmp_path))) == llama.context == 128
    with pytest.raises(DataError, match="at most the model's context of 128 tokens, got 129"):
        Rules.of(TokenPolicy(context_size=129), llama)


def test_a_document_that_does_not_suit_is_named(llama, tmp_path):
    with pytest.raises(DataError, match=r"a\.jsonl, the document that ends at file 0, at \d+: form='chat' needs conv"):
        rows(llama, source_of("jsonl", tmp_path), form="chat")


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"roles": "user"}, "roles='user' needs conversations: set form='chat'"),
        ({"context_size": 1}, "context_size must be a whole number of at least 2"),
        ({"exclude_ids": (-1,)}, "A token id in exclude_ids must be a whole number"),
        ({"max_norm_ratio": 1.0}, "max_norm_ratio must be above 1"),
        ({"max_norm_ratio": float("nan")}, "max_norm_ratio must be a finite number"),
    ],
)
def test_settings_that_cannot_work_are_refused(policy, words):
    with pytest.raises(DataError, match=words):
        TokenPolicy(**policy)


def test_ids_beyond_the_vocabulary_are_refused(llama):
    with pytest.raises(DataError, match="exclude_ids must be below the model's"):
        Rules.of(TokenPolicy(exclude_ids=(10_000,)), llama)
