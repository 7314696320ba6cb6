"""The embedded model's training text and prompt sets: splits by content, determinism, schema, tokenizer."""

import gzip
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from experiments.embedded_model.build import CONVERSATIONS, PRACTICE_CONVERSATIONS, SAMPLE_CONVERSATIONS
from experiments.embedded_model.corpus import conversations, practice
from experiments.embedded_model.knowledge import asked, concept_question, concepts, form_split, question_split
from experiments.embedded_model.prompts import COUNTS, HELD_OUT_SETS, HELD_OUT_TAGS, SETS, prompts
from experiments.embedded_model.words.myths import MYTHS, TEMPLATES
from experiments.embedded_model.words.subjects import SUBJECTS
from experiments.embedded_model.words.verbs import gerund
from experiments.embedded_model.words.wrapping import WRAPPERS

EMBEDDED = Path(__file__).parents[2] / "steer" / "embedded"
SEED = 0


@pytest.fixture(scope="module")
def training() -> list[list[dict[str, str]]]:
    return conversations(SEED, CONVERSATIONS) + practice(SEED, PRACTICE_CONVERSATIONS)


@pytest.fixture(scope="module")
def text(training) -> str:
    """All distinct messages of the training text and of the shipped sample, in lower case, single spaces."""
    with gzip.open(EMBEDDED / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        shipped = [json.loads(line)["messages"] for line in lines]
    messages = dict.fromkeys(m["content"] for chat in [*training, *shipped] for m in chat)
    return re.sub(r"\s+", " ", " | ".join(messages).lower())


@pytest.fixture(scope="module")
def words(text) -> set[str | tuple[str, str]]:
    """Those of the text, and each two in a row: a string with others cannot stand there, which spares most searches."""
    return in_a_row(text)


def in_a_row(text: str) -> set[str | tuple[str, str]]:
    words = re.findall(r"\w+", text)
    return {*words, *pairwise(words)}


def held_out_strings(line) -> set[str]:
    """What must be new about a prompt: its object, verb (plain and -ing form), name and wrapper text."""
    strings = {line["tags"][tag].lower() for tag in HELD_OUT_TAGS if tag in line["tags"]}
    verbs = {line["tags"][tag] for tag in ("verb", "second_verb") if tag in line["tags"]}
    return strings | {gerund(verb).lower() for verb in verbs}


@pytest.mark.parametrize("split", ["dev", "test"])
@pytest.mark.parametrize("name", HELD_OUT_SETS)
def test_held_out_words_never_occur_in_training(name, split, text, words):
    strings = set().union(*(held_out_strings(line) for line in prompts(name, split, SEED)))
    assert len(strings) >= 12
    possible = [s for s in strings if in_a_row(s) <= words and s in text]
    assert [s for s in possible if re.search(rf"(?<!\w){re.escape(s)}(?!\w)", text)] == []


@pytest.mark.parametrize("name", HELD_OUT_SETS)
def test_dev_and_test_share_no_filler(name):
    dev, test = (
        {s for line in prompts(name, split, SEED) for s in held_out_strings(line)} for split in ("dev", "test")
    )
    assert dev & test == set()


@pytest.mark.parametrize("name", SETS)
def test_no_prompt_is_a_training_prompt(name, training):
    asked = {chat[-2]["content"] for chat in training if len(chat) == 2}
    for split in ("dev", "test"):
        assert not [line["id"] for line in prompts(name, split, SEED) if line["messages"][-1]["content"] in asked]


def frame_pattern(frame):
    """What matches a wrapper of this frame, whatever is in its slots."""
    slots = {"{R}": ".*", "{f}": ".{1,40}", "{af}": ".{1,40}"}
    return re.compile("".join(slots.get(part, re.escape(part)) for part in re.split(r"(\{\w+\})", frame)), re.DOTALL)


def test_frames_of_held_out_wrappers_are_never_used(training):
    """Neither a wrapper's filler (a tag of the prompts) nor the sentence around it."""
    asked = dict.fromkeys(m["content"] for chat in training for m in chat if m["role"] == "user")
    for kind, frames in WRAPPERS.items():
        assert set(frames) == {"train", "dev", "test"}
        for split, own in frames.items():
            used = [any(map(frame_pattern(frame).fullmatch, asked)) for frame in own]
            assert all(used) if split == "train" else not any(used), (kind, split, used)


def test_held_out_wordings_of_facts_are_never_asked(training):
    lines = {line for chat in training for m in chat if m["role"] == "user" for line in m["content"].splitlines()}
    for subject in SUBJECTS:
        for fact in subject.facts:
            assert set(asked(subject, fact, "train")) & lines
            assert not {*asked(subject, fact, "dev"), *asked(subject, fact, "test")} & lines


def test_held_out_myths_are_never_judged(training):
    claims = {claim for i, pair in enumerate(MYTHS) if form_split(i) != "train" for claim in pair}
    questions = {chat[-2]["content"] for chat in training}
    judged = [q.lower() for q in questions if re.search(r"true or false", q, re.IGNORECASE)]
    assert not [claim for claim in claims if any(claim.lower() in question for question in judged)]
    wordings = [re.sub(r"\{[cC]\}\.?", "", t).strip().lower() for t in TEMPLATES["test"]]
    assert not [w for w in wordings if any(w in question for question in judged)]


def test_held_out_concept_questions_are_never_asked(training):
    questions = {chat[-2]["content"] for chat in training}
    for number in range(len(concepts())):
        for question in range(10):
            if (split := question_split(number, question)) != "train":
                asked = concept_question(None, split, number, question).turns[0]  # type: ignore[arg-type]
                assert asked not in questions


def test_same_seed_same_text_and_prompts():
    assert conversations(3, 500) == conversations(3, 500) != conversations(4, 500)
    for name in SETS:
        assert prompts(name, "dev", 1) == prompts(name, "dev", 1)
        if name != "concepts":  # every concept in turn, whatever the seed
            assert prompts(name, "dev", 1) != prompts(name, "dev", 2)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_shipped_prompts_are_those_of_the_generator(split):
    shipped = [json.loads(line) for line in (EMBEDDED / "prompts" / f"{split}.jsonl").read_text("utf-8").splitlines()]
    assert shipped == [line for name in SETS for line in prompts(name, split, SEED)]
    assert len({line["id"] for line in shipped}) == len(shipped)
    for name in SETS:
        assert sum(line["set"] == name for line in shipped) == COUNTS[split]
    for line in shipped:
        check_schema(line, split)


def check_schema(line, split):
    assert set(line) == {"id", "set", "split", "messages", "expect", "tags"}
    assert line["split"] == split
    assert [m["role"] for m in line["messages"]] == ["user", "assistant"] * (len(line["messages"]) // 2) + ["user"]
    assert all(m["content"].strip() for m in line["messages"])
    assert all(isinstance(value, str) for value in line["tags"].values())
    expect = line["expect"]
    kinds = {"arithmetic": "number", "multiple_choice": "choice", "myths": "choice", "concepts": "mentions"}
    assert expect["kind"] == kinds.get(line["set"], "refusal")
    if expect["kind"] == "choice":
        assert 0 <= expect["answer"] < len(expect["choices"])
    if line["set"] == "multi_turn":
        assert 5 <= len(line["messages"]) <= 9


def test_shipped_corpus_is_a_sample_of_the_training_text(training):
    with gzip.open(EMBEDDED / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        shipped = [json.loads(line)["messages"] for line in lines]
    assert shipped == training[:SAMPLE_CONVERSATIONS]


@pytest.mark.parametrize(
    "sample", ["Grüße, 世界! 🦊", "tab\tnew\nline  two spaces ", "\u2028\u202e\x00", "12345 1,000.5", "ﬁ é é"]
)
def test_tokenizer_round_trips_any_text(sample):
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "model")
    assert tokenizer.decode(tokenizer.encode(sample, add_special_tokens=False)) == sample


def test_tokenizer_splits_digits_and_knows_the_chat_template():
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "model")
    assert len(tokenizer.encode("2026", add_special_tokens=False)) == 4
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert rendered == "<s><|user|>\nHi<|end|>\n<|assistant|>\n"
    assert tokenizer.eos_token == "<|end|>"
