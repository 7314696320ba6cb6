"""The words of a vocabulary and their first letters, read by the model in examples of that very question."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steer.activations.reading import by_length
from steer.errors import DataError
from steer.models.model import LanguageModel
from steer.models.site import Site

LETTERS = "abcdefghijklmnopqrstuvwxyz"
EXAMPLES = 10  # answered questions before each word
MOST_WORDS = 4000
_FORWARD_TOKENS = 8192


@dataclass(frozen=True)
class Word:
    """A token that is a word."""

    token: int
    text: str
    """As it decodes, with its space if it has one."""
    letter: int
    """Its first letter, as a place in ``LETTERS``."""


def vocabulary_words(lm: LanguageModel) -> list[Word]:
    """All tokens of a vocabulary that are letters, but for one leading space (as SAEBench chooses them)."""
    words = []
    special = set(lm.tokenizer.all_special_ids)
    for token in range(min(lm.vocabulary or len(lm.tokenizer), len(lm.tokenizer))):
        text = "" if token in special else lm.tokenizer.decode([token])
        plain = text.removeprefix(" ").lower()
        if plain and all(letter in LETTERS for letter in plain):
            words.append(Word(token, text, LETTERS.index(plain[0])))
    return words


def split_words(words: Sequence[Word], seed: int) -> tuple[list[Word], list[Word]]:
    """Four fifths to fit probes on, one fifth to measure on, at random; of a large vocabulary, ``MOST_WORDS``.

    Raises:
        DataError: there are fewer than 50 words.
    """
    if len(words) < 50:
        raise DataError(f"The vocabulary has {len(words)} words that are one token; the first-letter task needs 50.")
    generator = torch.Generator().manual_seed(seed)
    chosen = [words[i] for i in torch.randperm(len(words), generator=generator).tolist()][:MOST_WORDS]
    train = len(chosen) * 4 // 5
    return chosen[:train], chosen[train:]


def word_activations(lm: LanguageModel, site: Site, words: Sequence[Word], seed: int) -> Float[Tensor, "word d_model"]:
    """Activations at the token of each word, after examples taken from the same words.

    The question itself follows the word, so the model reads nothing of it before: the examples say what is asked.
    """
    generator = torch.Generator().manual_seed(seed)
    start = lm.tokenizer.bos_token or ""
    prompts = []
    for _ in words:
        shown = [words[i] for i in torch.randperm(len(words), generator=generator)[:EXAMPLES].tolist()]
        lines = [f"\n{word.text} has the first letter: {LETTERS[word.letter].upper()}" for word in shown]
        prompts.append(start + "".join(lines) + "\n")
    rows = [[*ids, word.token] for ids, word in zip(lm.encode(prompts), words, strict=True)]
    found = torch.zeros(len(words), lm.d_model, device=lm.device)
    for batch in by_length([len(ids) for ids in rows], _FORWARD_TOKENS):
        tokens = lm.pad([rows[i] for i in batch])
        found[batch] = lm.activations(tokens, [site])[site][:, -1].float()
    return found
