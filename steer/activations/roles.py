"""Whose tokens are whose in a conversation that a chat template has rendered."""

from collections.abc import Sequence
from typing import Any

from steer.errors import DataError
from steer.models.chat import Message
from steer.models.roles import token_roles


def role_mask(tokenizer: Any, conversation: Sequence[Message], text: str, role: str) -> list[bool]:
    """For each token of ``text``, the rendered conversation, whether it holds something that ``role`` says.

    What the template adds (names of roles, marks of beginning and end) is nobody's.

    Raises:
        DataError: the template changes what messages say, or the tokenizer does not tell where its tokens lie.
    """
    try:
        return [role in said for said in token_roles(tokenizer, conversation, text, reply=False)]
    except DataError as error:
        raise DataError(f"{error} Use roles='all'.") from error
