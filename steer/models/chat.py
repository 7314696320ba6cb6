"""Conversations and how they become the text that a model reads."""

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from jinja2 import TemplateError

from steer.errors import DataError


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


Conversation = Sequence[Message]

NO_TEMPLATE_NOTE = (
    "The tokenizer has no chat template: prompts are given as plain text, turns separated by blank lines "
    "('User: ...', 'Assistant:')."
)


def as_conversation(prompt: str | Conversation) -> list[Message]:
    """A plain string becomes one user turn."""
    return [Message(role="user", content=prompt)] if isinstance(prompt, str) else list(prompt)


def has_template(tokenizer: Any) -> bool:
    """Whether the tokenizer brings a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def render(tokenizer: Any, conversation: Conversation, reply: bool) -> str:
    """The text of a conversation; with ``reply`` it ends where the assistant's reply begins.

    Without a chat template, turns are written as ``User: ...`` and ``Assistant: ...`` separated by blank lines, after
    the tokenizer's beginning-of-sequence token if it has one.

    Raises:
        DataError: the chat template refuses the conversation (some have no system role, for example).
    """
    if has_template(tokenizer):
        try:
            text = tokenizer.apply_chat_template(list(conversation), tokenize=False, add_generation_prompt=reply)
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in conversation)
            raise DataError(f"The model's chat template refuses a conversation of {roles}: {error}.") from error
        return str(text)
    turns = [f"{message['role'].capitalize()}: {message['content']}" for message in conversation]
    return (tokenizer.bos_token or "") + "\n\n".join([*turns, "Assistant:"] if reply else turns)
