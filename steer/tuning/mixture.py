"""The mixture: general examples with a stated share of safety examples, nested as shares grow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from saes.seeds import derived
from steer.errors import DataError
from steer.models.chat import Message
from steer.tuning.rows import Examples


@dataclass(frozen=True)
class Mixture:
    """What is trained on, and what is kept from training to measure on."""

    general: tuple[list[Message], ...]
    safety: tuple[list[Message], ...]
    held_general: tuple[list[Message], ...]
    held_safety: tuple[list[Message], ...]
    record: dict[str, Any]
    """Number of each, the share that they come to, and the SHA-256 of both files, as JSON data."""

    @property
    def training(self) -> tuple[list[Message], ...]:
        """All examples trained on; the order in which they are read is ``order``'s."""
        return (*self.general, *self.safety)


def mixed(general: Examples, safety: Examples | None, share: float, validation_frac: float, seed: int) -> Mixture:
    """All general examples and so many safety examples that they are ``share`` of all, but for those held back.

    The general examples are the same at every share, and safety examples are the first of one shuffled row, so that a
    larger share has all the examples of a smaller one. What is held back is held back at every share.

    Raises:
        DataError: too few safety examples, a share that comes to none, or nothing left to train on.
    """
    held_general, kept_general = _divided(general.conversations, validation_frac, derived(seed, "general"))
    given = () if safety is None else safety.conversations
    held_safety, kept_safety = _divided(given, validation_frac, derived(seed, "safety"))
    if not kept_general:
        raise DataError(f"{general.path} has no example left to train on: all are kept for validation.")
    count = safety_count(len(kept_general), share)
    if share and not count:
        raise DataError(
            f"A share of {share:g} of {len(kept_general)} general examples comes to no safety example. "
            "Give more general examples, or a larger share."
        )
    if count > len(kept_safety):
        raise DataError(
            f"A share of {share:g} beside {len(kept_general)} general examples takes {count} safety examples, but "
            f"{len(kept_safety)} are there ({len(held_safety)} are kept for validation). "
            "Give more of them, fewer general examples, or a smaller share."
        )
    record = {
        "general": len(kept_general),
        "safety": count,
        "share": count / (len(kept_general) + count),
        "held_general": len(held_general),
        "held_safety": len(held_safety),
        "general_sha256": general.sha256,
        "safety_sha256": None if safety is None else safety.sha256,
    }
    return Mixture(kept_general, kept_safety[:count], held_general, held_safety, record)


def safety_count(general: int, share: float) -> int:
    """Safety examples that are ``share`` of all, beside so many general ones; the nearest whole number."""
    return math.floor(general * share / (1 - share) + 0.5)


def order(count: int, start: int, length: int, seed: int) -> list[int]:
    """Places ``start`` to ``start + length`` of the endless row in which each epoch is a shuffle of its own."""
    found: list[int] = []
    while len(found) < length:
        epoch, inside = divmod(start + len(found), count)
        found += _shuffle(count, derived(seed, "epoch", epoch))[inside : inside + length - len(found)]
    return found


def _divided(rows: Sequence[list[Message]], frac: float, seed: int) -> tuple[tuple[list[Message], ...], ...]:
    """The first ``frac`` of the shuffled rows, and the others."""
    shuffled = tuple(rows[place] for place in _shuffle(len(rows), seed))
    held = math.ceil(frac * len(rows)) if len(rows) > 1 else 0
    return shuffled[:held], shuffled[held:]


def _shuffle(count: int, seed: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
