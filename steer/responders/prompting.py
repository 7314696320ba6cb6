"""Putting an instruction before a conversation: as a system message, or within the first turn of the user."""

from typing import Any, Literal, get_args

from steer.errors import DataError, ModelError, PlanError
from steer.models.chat import Conversation, Message, as_conversation, has_template, render
from steer.models.model import LanguageModel
from steer.responders.responder import Prompts

Placement = Literal["system", "inline"]

_PROBE = Message(role="user", content="x")


def instructed(conversation: str | Conversation, text: str, placement: Placement = "system") -> list[Message]:
    """The conversation with an instruction before it; an empty text changes nothing.

    ``system``: as the system message; if there is one, before what it says, a blank line between. ``inline``: before
    the user's first words, a space between, as Self-CD's authors place it (arXiv 2401.17633).
    """
    messages = as_conversation(conversation)
    if not text:
        return messages
    role, between = ("system", "\n\n") if placement == "system" else ("user", " ")
    if placement == "system" and messages[0]["role"] != "system":
        return [Message(role="system", content=text), *messages]
    for place, message in enumerate(messages):
        if message["role"] == role:
            changed = Message(role=message["role"], content=f"{text}{between}{message['content']}")
            return [*messages[:place], changed, *messages[place + 1 :]]
    raise DataError("An instruction placed inline stands in the user's first turn, but no turn is the user's.")


def check_instruction(lm: LanguageModel, text: str, placement: Any) -> None:
    """See that an instruction reaches the model.

    Raises:
        PlanError: the text is none, the placement is unknown, or the chat template has no place for a system message.
    """
    if placement not in get_args(Placement):
        raise PlanError(f"placement must be one of {', '.join(get_args(Placement))}, got {placement!r}.")
    if not isinstance(text, str) or not text.strip():
        raise PlanError(f"An instruction must be a text with a word in it, got {text!r}. Use Unsteered(lm) for none.")
    remedy = 'Place it within the user\'s first turn: placement="inline".'
    try:
        shown = render(lm.tokenizer, instructed([_PROBE], text, placement), reply=True)
    except ModelError:
        raise
    except DataError as error:
        raise PlanError(f"The instruction has no place in the model's chat template. {error} {remedy}") from error
    if has_template(lm.tokenizer) and text.strip() not in shown:
        raise PlanError(f"The model's chat template leaves the system message out. {remedy}")


def instructed_all(conversations: Prompts, text: str, placement: Placement) -> list[Conversation]:
    """Several conversations with the instruction before each."""
    return [instructed(one, text, placement) for one in conversations]
