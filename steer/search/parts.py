"""Which tokens of a conversation count: all, the reply, the prompt, the last, what a role says, or some characters."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from steer.errors import DataError
from steer.models.chat import Conversation, as_conversations, is_raw, render
from steer.models.decode import Sampling
from steer.models.model import LanguageModel
from steer.models.roles import message_spans, token_roles

PARTS = ("whole", "prompt", "reply", "last", "system", "user", "assistant")
REPLY_TOKENS = 32
_CHARACTERS = re.compile(r"(\d{1,9}):(\d{1,9})", re.ASCII)


@dataclass(frozen=True)
class Row:
    """The tokens of a conversation, and which of them count."""

    ids: Sequence[int]
    counted: Bool[np.ndarray, " token"]


def check_part(part: str) -> None:
    """Raise DataError unless ``part`` is one of ``PARTS``, or characters such as ``10:25``."""
    match = _CHARACTERS.fullmatch(part) if isinstance(part, str) else None
    if part not in PARTS and (match is None or int(match[1]) >= int(match[2])):
        raise DataError(
            f"The part {part!r} of a conversation is unknown: expected one of {', '.join(PARTS)}, or characters "
            "FROM:TO of its last message, such as 10:25."
        )


def rows_of(
    lm: LanguageModel, prompts: Sequence[str | Conversation], part: str = "whole", reply_tokens: int = REPLY_TOKENS
) -> list[Row]:
    """Conversations as the model reads them, and which of their tokens are of the ``part``.

    ``whole`` is all of a row; ``prompt`` what comes before the reply; ``reply`` the assistant's last message or, where
    the conversation ends before it, the model's own greedy reply of at most ``reply_tokens``; ``last`` the prompt's
    last token; ``system``, ``user`` and ``assistant`` what they say, without the template's tokens; ``10:25`` the
    tokens that hold some of these characters of the last message. The first token of a row never counts: its
    activations are unlike all others.

    Raises:
        DataError: there is no such part, a conversation has no token in it, or a prompt is malformed.
    """
    check_part(part)
    conversations = as_conversations(prompts)
    asked = [one[-1]["role"] != "assistant" for one in conversations]
    begun = iter(lm.prompt_ids([one for one, ask in zip(conversations, asked, strict=True) if ask]))
    texts = [
        None if ask else render(lm.tokenizer, one, reply=False) for one, ask in zip(conversations, asked, strict=True)
    ]
    whole = iter(lm.encode([text for text in texts if text is not None]))
    rows: list[list[int]] = []
    counted: list[Bool[np.ndarray, " token"]] = []
    for conversation, text in zip(conversations, texts, strict=True):
        if text is None:
            prompt = next(begun)
            rows.append(prompt)
            counted.append(_of_prompt(lm, conversation, prompt.text, len(prompt), part))
        else:
            rows.append(next(whole))
            counted.append(_of_answered(lm, conversation, text, len(rows[-1]), part))
    if part == "reply" and any(asked):
        rows, counted = _replied(lm, rows, counted, asked, reply_tokens)
    for number, (row, mask) in enumerate(zip(rows, counted, strict=True)):
        mask[0] = False
        if not mask.any():
            raise DataError(f"Prompt {number + 1} has no token in the part {part!r} (of {len(row)} tokens).")
    return [Row(row, mask) for row, mask in zip(rows, counted, strict=True)]


def _of_prompt(
    lm: LanguageModel, conversation: Conversation, text: str, length: int, part: str
) -> Bool[np.ndarray, " _"]:
    """Of a conversation that ends where the reply begins; of its reply nothing."""
    if part in ("whole", "prompt"):
        return np.ones(length, dtype=bool)
    if part == "last":
        return np.arange(length) == length - 1
    if part == "reply":
        return np.zeros(length, dtype=bool)
    return _said(lm, conversation, text, length, part, reply=True)


def _of_answered(
    lm: LanguageModel, conversation: Conversation, text: str, length: int, part: str
) -> Bool[np.ndarray, " _"]:
    """Of a conversation that ends with a reply."""
    if part == "whole":
        return np.ones(length, dtype=bool)
    if part not in ("prompt", "last", "reply"):
        return _said(lm, conversation, text, length, part, reply=False)
    start, end = list(message_spans(lm.tokenizer, conversation, text, reply=False))[-1]
    places = _places(lm, text, False)
    if part == "reply":
        return np.array([first < end and last > start for first, last in places])
    before = np.array([last <= start for _, last in places])
    return before if part == "prompt" else np.arange(length) == int(before.sum()) - 1


def _said(
    lm: LanguageModel, conversation: Conversation, text: str, length: int, part: str, reply: bool
) -> Bool[np.ndarray, " _"]:
    """What a role says, or some characters of the last message."""
    if part in PARTS:
        if is_raw(conversation):
            return np.full(length, part == "user")
        return np.array([part in roles for roles in token_roles(lm.tokenizer, conversation, text, reply)])
    match = _CHARACTERS.fullmatch(part)
    assert match is not None, "parts were checked before"
    raw = is_raw(conversation)
    start, end = (0, len(text)) if raw else list(message_spans(lm.tokenizer, conversation, text, reply))[-1]
    first, last = start + int(match[1]), min(end, start + int(match[2]))
    return np.array([a < last and b > first and a < b for a, b in _places(lm, text, raw)])


def _places(lm: LanguageModel, text: str, special_tokens: bool) -> list[tuple[int, int]]:
    """Where in the text each token lies."""
    if not getattr(lm.tokenizer, "is_fast", False):
        raise DataError(
            f"A {type(lm.tokenizer).__name__} does not tell where in the text its tokens lie, which parts of "
            "conversations need. Search on the whole."
        )
    found: list[tuple[int, int]] = lm.tokenizer(text, add_special_tokens=special_tokens, return_offsets_mapping=True)[
        "offset_mapping"
    ]
    return found


def _replied(
    lm: LanguageModel, rows: list[list[int]], counted: list[np.ndarray], asked: Sequence[bool], reply_tokens: int
) -> tuple[list[list[int]], list[np.ndarray]]:
    """The rows with the model's own replies behind those that have none."""
    places = [place for place, ask in enumerate(asked) if ask]
    replies = dict(zip(places, lm.generate_ids([rows[i] for i in places], Sampling(reply_tokens)), strict=True))
    longer = [[*row, *replies.get(place, [])] for place, row in enumerate(rows)]
    masks = [
        np.concatenate([mask, np.ones(len(replies[place]), dtype=bool)]) if place in replies else mask
        for place, mask in enumerate(counted)
    ]
    return longer, masks
