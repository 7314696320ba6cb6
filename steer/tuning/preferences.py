"""Preferences: of two replies to the same conversation, the one that is wanted; read from a file and tokenised."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saes.checkpoints import digest_of_file
from steer.errors import DataError
from steer.models.chat import Message, as_conversation
from steer.models.model import LanguageModel
from steer.tuning.examples import tokenised
from steer.tuning.rows import rows_of


@dataclass(frozen=True)
class Preference:
    """A conversation that ends with the user, a reply that is wanted and one that is not."""

    messages: tuple[Message, ...]
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Preferences:
    """The preferences of a file, and which file it was."""

    pairs: tuple[Preference, ...]
    path: Path
    sha256: str
    """Of the file's bytes."""


@dataclass(frozen=True)
class Pair:
    """A preference as the model reads it: token ids of the prompt, and of both replies with what ends each."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


def read_preferences(given: str | Path) -> Preferences:
    """Read a file: ``.json`` holds a list of rows, any other name a row of JSON a line (``.gz``: packed).

    A row is ``{"messages": [...], "chosen": ..., "rejected": ...}`` of which the messages end with the user, or has a
    text ``prompt`` in their place.

    Raises:
        DataError: the file is missing, empty or damaged, or a row is none; its place is named.
    """
    path = Path(given)
    pairs = rows_of(path, preference, "preference")
    return Preferences(tuple(pairs), path, digest_of_file(path))


def preference(row: Any) -> Preference:
    """A row of a file.

    Raises:
        DataError: it is not one.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"expected a JSON object, got {type(row).__name__}.")
    if not {"chosen", "rejected"} <= set(row) or not {"messages", "prompt"} & set(row):
        raise DataError(
            f"expected `messages` (or `prompt`), `chosen` and `rejected`; got {', '.join(map(str, row)) or 'none'}."
        )
    given = row["messages"] if "messages" in row else row["prompt"]
    messages = as_conversation(given if isinstance(given, str | list) else [])
    if messages[-1]["role"] != "user":
        raise DataError("the messages before two replies end with the user.")
    replies = row["chosen"], row["rejected"]
    if not all(isinstance(reply, str) and reply.strip() for reply in replies):
        raise DataError("chosen and rejected must be texts with a word in them.")
    if replies[0] == replies[1]:
        raise DataError("chosen and rejected are the same, so nothing is preferred.")
    return Preference(tuple(messages), *replies)


def tokenised_pairs(lm: LanguageModel, preferences: Sequence[Preference], cutoff: int) -> list[Pair]:
    """Preferences as token ids; those of which a reply has no token before the cutoff are left out.

    The prompt is what the model reads before it replies; a reply begins where the rendered conversations part from it.

    Raises:
        DataError: the chat template refuses a conversation, or the tokenizer does not tell where tokens lie.
    """
    prompts = lm.prompt_ids([one.messages for one in preferences])
    found = []
    for one, prompt in zip(preferences, prompts, strict=True):
        whole = [[*one.messages, Message(role="assistant", content=reply)] for reply in (one.chosen, one.rejected)]
        chosen, rejected = (_until_the_end(lm, row) for row in whole)
        start = min(_shared(prompt, chosen), _shared(prompt, rejected))
        if start < min(cutoff, len(chosen), len(rejected)):
            found.append(Pair(prompt[:start], chosen[start:cutoff], rejected[start:cutoff]))
    return found


def _until_the_end(lm: LanguageModel, row: list[Message]) -> list[int]:
    """Token ids of a conversation up to the token that ends the last reply."""
    (example,) = tokenised(lm, [row], cutoff=2**31, on_prompt=False)
    last = max(place for place, counted in enumerate(example.counted) if counted)
    return list(example.ids[: last + 1])


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two rows have in common from the beginning."""
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))
