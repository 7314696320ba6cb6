"""Splits by content, and the small vocabulary the generators share.

Every slot filler of a prompt (object phrase, verb, wrapper filler, fact) belongs to exactly one of train, dev and test,
and a generator asked for one split uses fillers of that split only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")

# Eight cells along every row and column of a modifier x head table: each word is known from training.
_CELLS: tuple[Split, ...] = ("train", "test", "train", "dev", "train", "test", "train", "train")


_ONSETS = (
    "b",
    "bl",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "sk",
    "t",
    "tr",
    "v",
    "w",
    "z",
)
_CODAS = ("ck", "ff", "g", "lk", "mp", "nd", "nk", "p", "rt", "sk")


@dataclass(frozen=True)
class Item:
    """One conversation: user and assistant texts in turn, ending with the wanted reply.

    ``tags`` name the content; the values of ``object``, ``verb`` and ``wrapper_text`` are the held-out strings.
    """

    turns: tuple[str, ...]
    tags: dict[str, str] = field(default_factory=dict)
    system: str | None = None

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation as chat messages, reply included."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        roles = ("user", "assistant")
        return head + [{"role": roles[i % 2], "content": text} for i, text in enumerate(self.turns)]


def cell_split(row: int, column: int) -> Split:
    """The split of one cell of a modifier x head table."""
    return _CELLS[(row + 3 * column) % len(_CELLS)]


def pairs(modifiers: Sequence[str], heads: Sequence[str], split: Split) -> tuple[str, ...]:
    """The modifier + head phrases of a split."""
    return tuple(
        f"{modifier} {head}"
        for i, modifier in enumerate(modifiers)
        for j, head in enumerate(heads)
        if cell_split(i, j) == split
    )


def weighted(rng: Random, **weights: float) -> str:
    """One of the named choices, drawn with the given weights."""
    return rng.choices(list(weights), list(weights.values()))[0]


def made_up(rng: Random, ending: str = "") -> str:
    """A word that does not exist, of two or three syllables, so that unknown words carry no meaning of their own."""
    syllables = [rng.choice(_ONSETS) + rng.choice("aeiou") for _ in range(rng.choice((2, 2, 3)))]
    return "".join(syllables) + rng.choice(_CODAS) + ending


def a(phrase: str) -> str:
    """The phrase with its indefinite article."""
    return f"{'an' if phrase[0].lower() in 'aeio' or phrase.startswith('ug') else 'a'} {phrase}"


def cap(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]
