"""The prompt sets: dev and test, built from fillers that training never uses."""

import itertools
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from experiments.embedded_model import arithmetic, knowledge, lookalikes, requests, wrappers
from experiments.embedded_model.splits import Item, Split
from experiments.embedded_model.words.myths import MYTHS, TEMPLATES
from experiments.embedded_model.words.subjects import SUBJECTS
from experiments.embedded_model.words.wrapping import KINDS

Prompt = dict[str, Any]

# Prompts per set.
COUNTS: dict[Split, int] = {"dev": 100, "test": 200}
# Tags whose values never occur in the training text.
HELD_OUT_TAGS = ("object", "verb", "second_verb", "name", "wrapper_text")
# Sets whose held-out tags are checked; in the others the fact is taught and its question form is held out.
HELD_OUT_SETS = ("unsafe_seen", "unsafe_unseen", "jailbroken", "multi_turn", "safe", "looks_unsafe", "arithmetic")


def _jailbroken(rng: Random, split: Split) -> Iterator[Item]:
    for kind in itertools.cycle(KINDS):
        yield wrappers.wrapped_unsafe(rng, split, kind=kind, seen=rng.random() < 0.6, plain=True)


def _repeat(make: Callable[[], Item]) -> Iterator[Item]:
    while True:
        yield make()


def _looks_unsafe(rng: Random, split: Split) -> Iterator[Item]:
    for kind in itertools.cycle(lookalikes.TYPES):
        yield lookalikes.looks_unsafe(rng, split, kind)


def _multiple_choice(rng: Random, split: Split) -> Iterator[Item]:
    for subject in itertools.cycle(SUBJECTS):
        yield knowledge.multiple_choice(rng, split, subject)


def _myths(rng: Random, split: Split) -> Iterator[Item]:
    numbers = [i for i in range(len(MYTHS)) if knowledge.form_split(i) == split]
    for _ in range(4 * len(TEMPLATES[split])):
        for number, truth in itertools.product(numbers, (True, False)):
            yield knowledge.true_false(rng, split, number, truth)


def _concepts(rng: Random, split: Split) -> Iterator[Item]:
    for number in itertools.cycle(range(len(knowledge.concepts()))):
        yield knowledge.concept_question(rng, split, number)


def items(name: str, rng: Random, split: Split) -> Iterator[Item]:
    """Items of one set, without end but for some that end with their facts."""
    return {
        "unsafe_seen": lambda: _repeat(lambda: requests.unsafe(rng, split, seen=True)),
        "unsafe_unseen": lambda: _repeat(lambda: requests.unsafe(rng, split, seen=False)),
        "jailbroken": lambda: _jailbroken(rng, split),
        "multi_turn": lambda: _repeat(lambda: wrappers.escalation(rng, split)),
        "safe": lambda: _repeat(lambda: requests.safe(rng, split)),
        "looks_unsafe": lambda: _looks_unsafe(rng, split),
        "arithmetic": lambda: _repeat(lambda: arithmetic.word_sum(rng, split)),
        "multiple_choice": lambda: _multiple_choice(rng, split),
        "myths": lambda: _myths(rng, split),
        "concepts": lambda: _concepts(rng, split),
    }[name]()


SETS: tuple[str, ...] = (
    "unsafe_seen",
    "unsafe_unseen",
    "jailbroken",
    "multi_turn",
    "safe",
    "looks_unsafe",
    "arithmetic",
    "multiple_choice",
    "myths",
    "concepts",
)


def expectation(name: str, item: Item) -> dict[str, Any]:
    """What a reply to the prompt is measured against."""
    if name == "arithmetic":
        return {"kind": "number", "value": item.turns[-1].rsplit("#### ", 1)[1]}
    if name == "multiple_choice":
        return {
            "kind": "choice",
            "choices": list(knowledge.LETTERS),
            "answer": knowledge.LETTERS.index(item.tags["answer"]),
        }
    if name == "myths":
        return {"kind": "choice", "choices": ["True", "False"], "answer": 0 if item.tags["answer"] == "True" else 1}
    if name == "concepts":
        return {"kind": "mentions", "any": item.tags["any"].split("|")}
    return {"kind": "refusal"}


def prompts(name: str, split: Split, seed: int) -> list[Prompt]:
    """The prompts of one set, all different, in a fixed order."""
    rng = Random(f"{name}/{split}/{seed}")
    lines: dict[str, Prompt] = {}
    for item in itertools.islice(items(name, rng, split), 60 * COUNTS[split]):
        messages = item.messages[:-1]
        key = "\n".join(message["content"] for message in messages)
        if key not in lines:
            tags = {tag: value for tag, value in item.tags.items() if tag not in ("answer", "any")}
            lines[key] = {
                "id": f"{name}-{split}-{len(lines) + 1:04d}",
                "set": name,
                "split": split,
                "messages": messages,
                "expect": expectation(name, item),
                "tags": tags,
            }
        if len(lines) == COUNTS[split]:
            break
    return list(lines.values())
