"""What all methods share: what a fit gives, and the prompts that it is made from."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steer.digest import of_prompt
from steer.errors import DataError
from steer.models.batches import batches_of
from steer.models.chat import as_conversations
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.responders.responder import Prompts
from steer.steering.intervention import Intervention

FORWARD_ROWS = 64  # prompts of one forward pass
EACH = "each"
"""Key of a record under which the digests of single prompts are."""


@dataclass(frozen=True)
class Fitted:
    """Interventions, and how they came about."""

    interventions: tuple[Intervention, ...]
    record: dict[str, Any] = field(default_factory=dict)
    """What was chosen, from what, and on which prompts, as JSON data."""

    @property
    def fitted_on(self) -> frozenset[str]:
        """Digests of all prompts that it was fitted or chosen on, for ``plan_of`` and ``Steered``: an evaluation tells
        where it asks one of them.
        """
        return frozenset(_each(self.record))


def about(prompts: Prompts) -> dict[str, Any]:
    """Which prompts, as JSON data: how many, a digest of all, and one of each (``steer.digest.of_prompt``)."""
    conversations = as_conversations(prompts)
    text = json.dumps([list(one) for one in conversations], sort_keys=True)
    each = list(dict.fromkeys(map(of_prompt, conversations)))
    return {"n": len(prompts), "sha256": hashlib.sha256(text.encode()).hexdigest(), EACH: each}


def _each(record: Any) -> Iterator[str]:
    """The digests of prompts anywhere in a record."""
    if isinstance(record, list | tuple):
        for one in record:
            yield from _each(one)
    elif isinstance(record, dict):
        yield from record.get(EACH, ())
        for name, one in record.items():
            if name != EACH:
                yield from _each(one)


def check_prompts(**sets: Sequence[object]) -> None:
    """Raise DataError if a set of prompts is empty."""
    if empty := [name for name, prompts in sets.items() if not len(prompts)]:
        counts = ", ".join(f"{len(prompts)} {name}" for name, prompts in sets.items())
        raise DataError(f"A method is fitted on prompts of each kind, got {counts}. Give some {empty[0]} prompts.")


def last_states(
    lm: LanguageModel, sites: Sequence[Site], prompts: Prompts, count: int = 1
) -> Float[Tensor, "site prompt place d_model"]:
    """Activations at the last ``count`` tokens of each prompt, in float64 on the CPU, from one reading.

    Raises:
        DataError: a prompt has fewer tokens, or activations are not finite.
    """
    rows = lm.prompt_ids(prompts)
    if (shortest := min(map(len, rows))) < count:
        raise DataError(f"The last {count} tokens of each prompt are read, but one has only {shortest}.")
    found = torch.empty(len(sites), len(rows), count, lm.d_model, dtype=torch.float64)
    for batch in batches_of([len(row) for row in rows], FORWARD_ROWS):
        states = lm.activations(lm.pad([rows[i] for i in batch]), sites)
        for place, site in enumerate(sites):
            found[place, batch] = states[site][:, -count:].double().cpu()
    if not found.isfinite().all():
        raise DataError("Activations are not finite. Load the model in float32 (float16 overflows easily).")
    return found


def mean_states(lm: LanguageModel, sites: Sequence[Site], prompts: Prompts) -> Float[Tensor, "site prompt d_model"]:
    """The mean activation over the tokens of each prompt but the first, in float64 on the CPU.

    Raises:
        DataError: a prompt has a single token, or activations are not finite.
    """
    rows = lm.prompt_ids(prompts)
    if min(map(len, rows)) < 2:
        raise DataError("The first token of a prompt does not count, so each needs at least two; one has fewer.")
    found = torch.empty(len(sites), len(rows), lm.d_model, dtype=torch.float64)
    for batch in batches_of([len(row) for row in rows], FORWARD_ROWS):
        states = lm.activations(lm.pad([rows[i] for i in batch]), sites)
        for place, site in enumerate(sites):
            for row, i in enumerate(batch):
                found[place, i] = states[site][row, 1 - len(rows[i]) :].double().mean(0).cpu()
    if not found.isfinite().all():
        raise DataError("Activations are not finite. Load the model in float32 (float16 overflows easily).")
    return found
