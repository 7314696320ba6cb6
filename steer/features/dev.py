"""Development prompts of a search: which should be refused, which of them are read, and which are clamped on."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from steer.checks import require_whole
from steer.errors import DataError
from steer.evals.sample import Sample, by_set
from steer.evals.sets import SETS, load_prompts

DEV_SETS = ("unsafe_seen", "unsafe_unseen", "jailbroken", "safe", "looks_unsafe")
"""Sets of the embedded model that a search uses unless it is given others."""
_WORDS = {True: ("unsafe", "harmful"), False: ("safe", "harmless")}


@dataclass(frozen=True)
class Dev:
    """Prompts of both kinds, each in two parts that share none: one to read activations of, one to clamp latents on."""

    harmful: list[Sample]
    harmless: list[Sample]
    unsafe: list[Sample]
    safe: list[Sample]


def embedded_dev() -> list[Sample]:
    """The development prompts of the embedded model."""
    return [sample for name in DEV_SETS for sample in load_prompts(name, "dev")]


def told_apart(samples: Sequence[Sample]) -> tuple[list[Sample], list[str]]:
    """Samples each of whose prompts stands once and is of one kind; and what was left out, in words.

    A prompt that stood twice could be read and clamped on, whatever its ids. One of both kinds says nothing.

    Raises:
        DataError: a set does not say whether its prompts should be refused.
    """
    first: dict[str, Sample] = {}
    kinds: dict[str, set[bool]] = {}
    for one in samples:
        said = str(list(one.messages))
        first.setdefault(said, one)
        kinds.setdefault(said, set()).add(is_unsafe(one.set))
    both = sum(len(kind) == 2 for kind in kinds.values())
    notes = [f"{both} prompts stand among the harmful and the harmless ones, and were left out."] if both else []
    if twice := len(samples) - len(first) - both:
        notes.append(f"{twice} prompts stand among the others in the same words, and were left out.")
    return [one for said, one in first.items() if len(kinds[said]) == 1], notes


def divided(samples: Sequence[Sample], clamped: int = 24, read: int = 76, seed: int = 0) -> Dev:
    """Prompts by kind and part: of each set at most ``clamped`` to clamp on, but half of it at most, and of the others
    at most ``read`` to read. ``seed`` says which.

    Raises:
        DataError: a sample is not asked to be refused or not, a set does not say which, or a number is below 1.
    """
    require_whole("clamped", clamped, DataError)
    require_whole("read", read, DataError)
    found = Dev([], [], [], [])
    for name, group in by_set(samples).items():
        if strange := [one for one in group if one.kind != "refusal"]:
            raise DataError(
                f"Sample {strange[0].id!r} is of kind {strange[0].kind!r}: prompts of kind 'refusal' count."
            )
        unsafe = is_unsafe(name)
        random.Random(f"{seed} {name}").shuffle(group)
        count = min(clamped, len(group) // 2)
        (found.unsafe if unsafe else found.safe).extend(group[:count])
        (found.harmful if unsafe else found.harmless).extend(group[count : count + read])
    return found


def is_unsafe(name: str) -> bool:
    """Whether the prompts of a set should be refused, by its name.

    Raises:
        DataError: it does not say.
    """
    if name in SETS and SETS[name].group != "ability":
        return SETS[name].group == "harmful"
    for unsafe, words in _WORDS.items():
        if name.lower().startswith(words):
            return unsafe
    raise DataError(
        f"The set {name!r} does not say whether its prompts should be refused: name it unsafe..., harmful..., safe... "
        "or harmless..., or as one of the embedded model's sets."
    )
