"""Who says what: prompts that remember their conversation, and whose words each of their tokens holds."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from steer.errors import DataError
from steer.models.chat import ROLES, Conversation, Message, is_raw, render

_MARK = "\ue000{}\ue001"  # private characters: no template trims or escapes them, and no text has them
TEMPLATE = -1  # in place of a role's number: what the chat template adds, which nobody says


class PromptIds(list[int]):
    """Token ids of a prompt that remember the conversation they render; a list like any other besides.

    A part of one, or several joined, is a plain list, of which nobody knows who says what; ``last`` keeps it known.
    """

    def __init__(self, ids: Iterable[int], conversation: Conversation, text: str) -> None:
        super().__init__(ids)
        self.conversation = conversation
        self.text = text

    def last(self, count: int) -> "PromptIds":
        """A raw text cut from the left to so many tokens, of which it is still known that the user says them."""
        return self if len(self) <= count else PromptIds(self[-count:], self.conversation, self.text)


@dataclass(frozen=True, eq=False)
class Said:
    """Of the rows of a call, what is known of who says what."""

    tokenizer: Any
    prompts: Mapping[int, PromptIds]
    """By row of the call; a row that was given as bare token ids is missing."""
    _numbers: dict[int, list[int]] = field(init=False, default_factory=dict)

    def roles(self, rows: Int[Tensor, " batch"]) -> Int[Tensor, "batch prompt"]:
        """For each token of the rows' prompts, by position, the number of its role in ``ROLES``, or ``TEMPLATE``.

        Raises:
            KeyError: the conversation of a row is not known.
            DataError: the template changes what messages say, or the tokenizer does not tell where its tokens lie.
        """
        for row in rows.tolist():
            if row not in self._numbers:
                prompt = self.prompts[row]
                if is_raw(prompt.conversation):
                    self._numbers[row] = _raw_roles(self.tokenizer, prompt)
                    continue
                said = token_roles(self.tokenizer, prompt.conversation, prompt.text, reply=True)
                self._numbers[row] = [ROLES.index(roles[0]) if roles else TEMPLATE for roles in said]
        found = [self._numbers[row] for row in rows.tolist()]
        longest = max(map(len, found))
        return torch.tensor([row + [TEMPLATE] * (longest - len(row)) for row in found], device=rows.device)


def _raw_roles(tokenizer: Any, prompt: PromptIds) -> list[int]:
    """The user says all of a raw text, but for the special tokens that the tokenizer puts around it."""
    special, user = set(tokenizer.all_special_ids), ROLES.index("user")
    return [TEMPLATE if token in special else user for token in prompt]


def token_roles(tokenizer: Any, conversation: Conversation, text: str, reply: bool) -> list[tuple[str, ...]]:
    """For each token of ``text``, the rendered conversation, the roles that say something in it.

    None do in what the template adds: names of roles, marks of beginning and end. Several do in a token that holds the
    end of one message and the beginning of the next. ``reply`` is what the text was rendered with.

    Raises:
        DataError: the template changes what messages say, or the tokenizer does not tell where its tokens lie.
    """
    spans = list(message_spans(tokenizer, conversation, text, reply))
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            "Telling whose tokens are whose needs a tokenizer that tells where in the text its tokens lie, and a "
            f"{type(tokenizer).__name__} does not."
        )
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    messages = list(zip((message["role"] for message in conversation), spans, strict=True))
    return [tuple(role for role, (first, last) in messages if start < last and end > first) for start, end in offsets]


def message_spans(tokenizer: Any, conversation: Sequence[Message], text: str, reply: bool) -> Iterator[tuple[int, int]]:
    """Where in ``text`` each message's words are.

    The template is rendered a second time, with marks in the messages' places, which shows what it puts between them.
    Looking for the words themselves could find them in the template's own, such as the word "user".
    """
    marked = [Message(role=message["role"], content=_MARK.format(i)) for i, message in enumerate(conversation)]
    rest, between = render(tokenizer, marked, reply), []
    for message in marked:
        before, mark, rest = rest.partition(message["content"])
        if not mark:
            raise _changed(message["role"])
        between.append(before)
    at = 0
    for message, before, after in zip(conversation, between, [*between[1:], rest], strict=True):
        at += len(before)
        content = message["content"]
        for words in (content, content.rstrip(), content.lstrip(), content.strip()):  # templates may trim
            if text.startswith(before, at - len(before)) and text.startswith(words + after, at):
                break
        else:
            raise _changed(message["role"])
        yield at, at + len(words)
        at += len(words)
    if text[at:] != rest:
        raise _changed(conversation[-1]["role"])


def _changed(role: str) -> DataError:
    return DataError(
        f"The chat template changes what a message of the {role} says, or leaves it out, so it cannot be told whose "
        "tokens are whose."
    )
