"""Conversations as tokens, with those that the loss is on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from steer.errors import DataError
from steer.models.chat import Conversation, render
from steer.models.model import LanguageModel
from steer.models.roles import token_roles


@dataclass(frozen=True)
class Example:
    """A conversation as the model reads it."""

    ids: tuple[int, ...]
    counted: tuple[bool, ...]
    """For each token, whether the loss is on it; it never is on the first, which nothing comes before."""


@dataclass(frozen=True)
class Batch:
    """Examples padded on the right."""

    ids: Int[Tensor, "batch seq"]
    mask: Int[Tensor, "batch seq"]
    """1 for real tokens, 0 for padding."""
    counted: Bool[Tensor, "batch seq"]


def tokenised(lm: LanguageModel, rows: Sequence[Conversation], cutoff: int, on_prompt: bool) -> list[Example]:
    """Conversations as examples of at most ``cutoff`` tokens; those with nothing to learn before it are left out.

    The loss is on what the assistant says and on the token that ends its turn, which is added where the chat template
    has none; with ``on_prompt`` on all tokens.

    Raises:
        DataError: the template refuses or changes what messages say, or the tokenizer does not tell where tokens lie.
    """
    stops = set(lm.stop_ids())
    texts = [render(lm.tokenizer, row, reply=False) for row in rows]
    found = []
    for row, text, ids in zip(rows, texts, lm.encode(texts), strict=True):
        counted = [True] * len(ids) if on_prompt else _said(lm, row, text, stops, ids)
        if not stops.intersection(ids[-2:]) and lm.tokenizer.eos_token_id is not None:  # a line break may follow it
            ids, counted = [*ids, lm.tokenizer.eos_token_id], [*counted, True]
        counted[0] = False
        if any(counted[:cutoff]):
            found.append(Example(tuple(ids[:cutoff]), tuple(counted[:cutoff])))
    return found


def _said(lm: LanguageModel, row: Conversation, text: str, stops: set[int], ids: Sequence[int]) -> list[bool]:
    """Which tokens hold what the assistant says, or end it."""
    try:
        roles = token_roles(lm.tokenizer, row, text, reply=False)
    except DataError as error:
        raise DataError(f"{error} Train on the prompt too: train_on_prompt.") from error
    counted = ["assistant" in one for one in roles]
    for place in range(1, len(ids)):
        if "assistant" in roles[place - 1] and not roles[place]:  # here begins what the template adds after it
            gap = next((i for i in range(place, len(ids)) if roles[i]), len(ids))
            end = next((i for i in range(place, gap) if ids[i] in stops), place - 1)
            counted[place : end + 1] = [True] * (end + 1 - place)
    return counted


def padded(examples: Sequence[Example], pad: int, device: torch.device) -> Batch:
    """Examples as one batch."""
    longest = max(len(one.ids) for one in examples)

    def tensor(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
        return torch.tensor([[*row] + [fill] * (longest - len(row)) for row in rows], device=device)

    ids, counted = tensor([one.ids for one in examples], pad), tensor([one.counted for one in examples], 0)
    return Batch(ids, tensor([[1] * len(one.ids) for one in examples], 0), counted.bool())
