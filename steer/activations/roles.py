"""Whose tokens are whose in a conversation that a chat template has rendered."""

from collections.abc import Iterator, Sequence
from typing import Any

from steer.errors import DataError
from steer.models.chat import Message, render

_MARK = "\ue000{}\ue001"  # private characters: no template trims or escapes them, and no text has them


def role_mask(tokenizer: Any, conversation: Sequence[Message], text: str, role: str) -> list[bool]:
    """For each token of ``text``, the rendered conversation, whether it holds something that ``role`` says.

    What the template adds (names of roles, marks of beginning and end) is nobody's.

    Raises:
        DataError: the template changes what messages say, or the tokenizer does not tell where its tokens lie.
    """
    spans = [span for message, span in zip(conversation, _spans(tokenizer, conversation, text), strict=True)
             if message["role"] == role]  # fmt: skip
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"roles={role!r} needs a tokenizer that tells where in the text its tokens lie, and a "
            f"{type(tokenizer).__name__} does not. Use roles='all'."
        )
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [any(start < last and end > first for first, last in spans) for start, end in offsets]


def _spans(tokenizer: Any, conversation: Sequence[Message], text: str) -> Iterator[tuple[int, int]]:
    """Where in ``text`` each message's words are.

    The template is rendered a second time, with marks in the messages' places, which shows what it puts between them.
    Looking for the words themselves could find them in the template's own, such as the word "user".
    """
    marked = [Message(role=message["role"], content=_MARK.format(i)) for i, message in enumerate(conversation)]
    rest, between = render(tokenizer, marked, reply=False), []
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
        "tokens are whose. Use roles='all'."
    )
