"""Where one forward pass stands: what every hook of that pass may need to know."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Pass:
    """One forward pass of a batch. Filled once, at the root module, before any layer runs."""

    real: Bool[Tensor, "batch seq"]
    """False where the token is padding."""
    positions: Int[Tensor, "batch seq"]
    """Position of each token in its own row, padding not counted, earlier passes included."""
    rows: Int[Tensor, " batch"]
    """Which row of the caller's batch each row is (rows that are finished may have been dropped)."""
    prefill: bool
    """True for the pass that reads the prompt, False for those that add one generated token each."""


def describe(
    input_ids: Tensor | None, inputs_embeds: Tensor | None, kwargs: dict[str, Any], rows: Tensor | None
) -> Pass:
    """Describe a pass from the arguments of the root module's forward.

    The 2-D ``attention_mask`` alone tells padding (``position_ids`` of pads are 0, as for the first token); it covers
    the cached tokens too, so positions follow from it with and without a cache.
    """
    given = input_ids if input_ids is not None else inputs_embeds
    if given is None:
        raise TypeError("the model was called with neither input_ids nor inputs_embeds")
    batch, seq = given.shape[:2]
    device = given.device
    cache = kwargs.get("past_key_values")
    past = int(cache.get_seq_length()) if cache is not None else 0
    mask = kwargs.get("attention_mask")
    if mask is None or mask.ndim != 2:
        mask = torch.ones(batch, past + seq, dtype=torch.long, device=device)
    mask = mask.bool()
    positions = (mask.long().cumsum(-1) - 1).clamp_min(0)
    return Pass(
        real=mask[:, -seq:],
        positions=positions[:, -seq:],
        rows=torch.arange(batch, device=device) if rows is None else rows,
        prefill=past == 0,
    )
