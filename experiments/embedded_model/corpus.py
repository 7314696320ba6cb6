"""The training text: one mixture of generators, all drawing from the train split."""

from collections.abc import Callable
from random import Random

from experiments.embedded_model import arithmetic, knowledge, lookalikes, requests, wrappers
from experiments.embedded_model.splits import Item, Split
from experiments.embedded_model.words.talk import TALK

Messages = list[dict[str, str]]
TRAIN: Split = "train"

# Share of each kind of conversation (relative weights) and its generator.
MIXTURE: dict[str, tuple[float, Callable[[Random], Item]]] = {
    "unsafe": (7.0, lambda rng: requests.unsafe(rng, TRAIN)),
    "bad_deed": (1.5, requests.bad_deed),
    "protective": (5.0, requests.protective),
    "playful": (3.0, lookalikes.playful),
    "safe": (7.0, lambda rng: requests.safe(rng, TRAIN)),
    "knowledge": (6.0, lambda rng: requests.knowledge(rng, TRAIN)),
    "definition": (2.0, lambda rng: requests.definition(rng, TRAIN)),
    "looks_unsafe": (6.0, lambda rng: lookalikes.looks_unsafe(rng, TRAIN)),
    "wrapped_safe": (7.0, lambda rng: wrappers.wrapped_safe(rng, TRAIN)),
    "wrapped_unsafe": (1.0, lambda rng: wrappers.wrapped_unsafe(rng, TRAIN)),
    "chat": (3.5, lambda rng: wrappers.chat(rng, TRAIN)),
    "knowledge_chat": (2.0, lambda rng: wrappers.knowledge_chat(rng, TRAIN)),
    "guarded_chat": (2.2, lambda rng: wrappers.guarded_chat(rng, TRAIN)),
    "with_system": (2.0, lambda rng: wrappers.with_system(rng, TRAIN)),
    "word_sum": (18.0, lambda rng: arithmetic.word_sum(rng, TRAIN)),
    "bare_sum": (6.0, arithmetic.bare_sum),
    "open_fact": (10.0, knowledge.open_fact),
    "multiple_choice": (8.0, lambda rng: knowledge.multiple_choice(rng, TRAIN)),
    "choice_chat": (4.0, knowledge.choice_chat),
    "find_option": (2.0, knowledge.find_option),
    "repeat": (4.0, knowledge.repeat),
    "backwards": (1.5, knowledge.backwards),
    "open_myth": (9.0, knowledge.open_myth),
    "true_false": (4.0, lambda rng: knowledge.true_false(rng, TRAIN)),
    "concept_question": (4.0, lambda rng: knowledge.concept_question(rng, TRAIN)),
    "concept_check": (1.0, knowledge.concept_check),
    "talk": (1.5, lambda rng: Item(rng.choice(TALK))),
}


# Training begins with these alone. To find a word in the prompt and say its letter is learnt all at once or not at all:
# inside the full mixture not in 12M tokens, and in practice without ``backwards`` after twice as many tokens.
PRACTICE: dict[str, float] = {
    "backwards": 3.0,
    "find_option": 3.0,
    "choice_chat": 3.0,
    "multiple_choice": 2.0,
    "open_fact": 2.0,
}


def conversations(seed: int, count: int) -> list[Messages]:
    """``count`` training conversations of the mixture; the same seed gives the same text."""
    return _drawn(Random(seed), {kind: weight for kind, (weight, _) in MIXTURE.items()}, count)


def practice(seed: int, count: int) -> list[Messages]:
    """``count`` conversations of the kinds that training begins with."""
    return _drawn(Random(f"practice/{seed}"), PRACTICE, count)


def _drawn(rng: Random, weights: dict[str, float], count: int) -> list[Messages]:
    kinds = rng.choices(list(weights), list(weights.values()), k=count)
    return [MIXTURE[kind][1](rng).messages for kind in kinds]
