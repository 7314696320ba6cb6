"""Judge prompts as templates: texts with places for the prompt and the reply, read from a file or built in."""

import re
from collections.abc import Mapping
from pathlib import Path

from steer.errors import DataError
from steer.judges.asked import Prompt
from steer.models.chat import Message

_PLACE = re.compile(r"\{(\w+)\}")


def filled(template: str, values: Mapping[str, str]) -> str:
    """``template`` with each ``{name}`` of ``values`` put in; what is put in is not looked at again."""
    return _PLACE.sub(lambda match: values.get(match[1], match[0]), template)


def filled_prompt(template: str, raw: bool, prompt: str, reply: str) -> Prompt:
    """The question of a template about a reply: a user's turn and, where ``raw``, the text as it stands."""
    text = filled(template, {"prompt": prompt, "reply": reply})
    return Prompt((Message(role="user", content=text),), text if raw else None)


def check_template(template: str, where: str, places: tuple[str, ...] = ("prompt", "reply")) -> str:
    """The template, if it has every place once or more.

    Raises:
        DataError: a place is missing.
    """
    if missing := [place for place in places if f"{{{place}}}" not in template]:
        wanted = " and ".join(f"{{{place}}}" for place in places)
        raise DataError(f"{where} has no place for {{{missing[0]}}}: expected a text with {wanted} in it. Add it.")
    return template


def read_text(path: Path) -> str:
    """What a text file holds.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"The template {path} cannot be read: {reason}. Give a text file in UTF-8.") from error


def read_template(path: Path, places: tuple[str, ...] = ("prompt", "reply")) -> str:
    """A template from a text file.

    Raises:
        DataError: the file cannot be read, or a place is missing in it.
    """
    return check_template(read_text(path), f"The template {path}", places)
