"""Sets of prompts from files, and what is odd about two of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steer.errors import DataError
from steer.files import numbered_rows, read_ordinary
from steer.models.chat import Conversation, as_conversation, as_conversations

Prompts = Sequence[str | Conversation]


def read_prompts(path: str | Path) -> list[str | Conversation]:
    """The prompts of a file: a ``.jsonl`` of objects with ``messages``, ``prompt`` or ``text``, else a prompt a line.

    Empty lines are passed over.

    Raises:
        DataError: the file cannot be read, a line of it is something else, or it holds no prompt.
    """
    path = Path(path)
    data = read_ordinary(path)
    found: list[str | Conversation]
    if path.suffix == ".jsonl":
        found = [_prompt_of(row, f"{path}, line {number}") for number, row in numbered_rows(data, path, whole=True)]
    else:
        try:
            text = data.decode("utf-8-sig")  # a mark of the byte order is no part of a prompt
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is no text in UTF-8 ({error}).") from error
        lines = text.replace("\r", "\n").split("\n")  # not splitlines: U+2028 may stand in a prompt
        found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise DataError(f"{path} holds no prompt.")
    return found


def _prompt_of(row: Mapping[str, Any], where: str) -> str | Conversation:
    """The prompt in an object of a ``.jsonl``; ``where`` names file and line in errors."""
    name = next((name for name in ("messages", "prompt", "text") if name in row), None)
    if name is None:
        raise DataError(f"{where}: expected messages, prompt or text, got {', '.join(row) or 'nothing'}.")
    value = row[name]
    if isinstance(value, str) and not value.strip():
        raise DataError(f"{where}: the {name} is empty. Give it words, or take the line out.")
    try:
        conversation = as_conversation(value)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    return value if isinstance(value, str) else conversation


def read_conversation(path: str | Path) -> Conversation:
    """The conversation in a JSON file: a list of messages, or an object with ``messages``.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    path = Path(path)
    data = read_ordinary(path)
    try:
        held = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({error}).") from error
    messages = held.get("messages") if isinstance(held, dict) else held
    if not isinstance(messages, list):
        raise DataError(f"{path} must hold a list of messages, got {type(messages).__name__}.")
    try:
        return as_conversation(messages)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def distinct(first: Prompts, second: Prompts) -> tuple[list[Conversation], list[Conversation], list[str]]:
    """Two sets without repeats and without what both hold, and notes of what was left out.

    A prompt that stands twice counts for two where there is one, and one in both sets tells nothing of their
    difference.

    Raises:
        DataError: a set is empty, or both hold the same, or a prompt is malformed.
    """
    sets = [as_conversations(list(one)) for one in (first, second)]
    if not all(sets):
        raise DataError(f"Both sets need prompts: got {len(sets[0])} and {len(sets[1])}.")
    keyed = [{json.dumps(one, sort_keys=True): one for one in own} for own in sets]
    both = keyed[0].keys() & keyed[1].keys()
    notes = []
    repeats = [len(own) - len(keys) for own, keys in zip(sets, keyed, strict=True)]
    if any(repeats):
        notes.append(f"prompts that stand in a set more than once count once: {repeats[0]} and {repeats[1]} left out.")
    if both:
        notes.append(f"the sets overlap: {len(both)} prompts are in both, and were left out.")
    left: list[list[Conversation]] = [[one for key, one in keys.items() if key not in both] for keys in keyed]
    if not all(left):
        raise DataError(f"The sets overlap in {len(both)} prompts, which leaves {len(left[0])} and {len(left[1])}.")
    return left[0], left[1], notes
