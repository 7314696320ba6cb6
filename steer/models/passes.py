"""Where one forward pass stands: what every hook of that pass may need to know."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from steer.errors import SiteError
from steer.models.roles import Said

Memory = dict[Any, Any]
_INPUTS = ("input_ids", "inputs_embeds", "input")  # the last in TransformerLens


@dataclass(frozen=True)
class Pass:
    """One forward pass of a batch. Filled once, at the root module, before any layer runs."""

    real: Bool[Tensor, "batch seq"]
    """False where the token is padding."""
    positions: Int[Tensor, "batch seq"]
    """Position of each token in its own row, padding not counted, earlier passes included."""
    generated: Bool[Tensor, "batch seq"]
    """True where the token was generated, False where it belongs to the prompt."""
    tokens: Int[Tensor, "batch seq"] | None
    """Token ids; None where the model was given embeddings."""
    prompt_tokens: Int[Tensor, " batch"] | None
    """Length of each row's prompt, padding not counted; None: nobody said so, and part of the row is in the cache."""
    rows: Int[Tensor, " batch"]
    """Which row of the call each row is (a call may be split into batches, and finished rows are dropped)."""
    n_rows: int
    """Rows of the whole call."""
    memory: Memory = field(default_factory=dict)
    """What interventions keep from pass to pass of one call, each under a key of its own."""
    said: Said | None = None
    """Who says what in the call's prompts; None: nobody said so."""
    named: bool = True
    """Whether somebody said which row of the call each row is; else they are counted."""
    told_apart: bool = True
    """Whether ``generated`` is known: of several tokens that come with a filled cache, where nobody said what they
    are, it is a guess. They may be a later part of the prompt, or candidates for the reply."""


@dataclass(frozen=True)
class Rows:
    """What a caller knows of the rows it runs, and the model's arguments do not tell."""

    index: Int[Tensor, " batch"]
    """Which row of the call each row is."""
    n_rows: int
    """Rows of the whole call."""
    prompt_tokens: Int[Tensor, " batch"]
    """Length of each row's prompt, padding not counted."""
    memory: Memory = field(default_factory=dict)
    """What interventions keep from pass to pass of the call."""
    copies: int = 1
    """Rows that come of each row that is given to the model: the pass is widened below its first site
    (``steer.models.widen``), and what is said here, as in ``Pass``, is said of the rows above it."""
    said: Said | None = None
    """Who says what in the prompts."""
    positions: Int[Tensor, "given seq"] | None = None
    """Position of each token that is given to the model, where the caller has counted them."""


def positions_of(mask: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """Position of each token in its own row, from 0, padding (where the mask is 0) not counted."""
    return (mask.cumsum(-1) - 1).clamp_min(0)


def after_first(real: Bool[Tensor, "batch seq"], positions: Int[Tensor, "batch seq"]) -> Bool[Tensor, "batch seq"]:
    """The tokens that SAEs are trained on and steering acts on: neither padding nor the first token of a row.

    The first token (usually a beginning-of-sequence marker) carries activations unlike all others.
    """
    return real & (positions > 0)


def describe(arguments: dict[str, Any], known: Rows | None, memory: Memory | None = None) -> Pass:
    """Describe a pass from the arguments of the root module's forward, by name.

    The 2-D ``attention_mask`` alone tells padding (``position_ids`` of pads are 0, as for the first token); it covers
    the cached tokens too, so positions follow from it with and without a cache. Without ``known`` rows, tokens that
    come with a filled cache count as generated, a pass without one begins a call, and ``memory`` lasts for that call.

    Raises:
        SiteError: the mask is not of shape [batch, cached + seq], so padding cannot be told; or several texts are
            packed into one row.
    """
    given = next((arguments[name] for name in _INPUTS if arguments.get(name) is not None), None)
    if given is None:
        raise SiteError(f"The model was called without any of {', '.join(_INPUTS)}, so hooks cannot tell its tokens.")
    if arguments.get("cu_seq_lens_q") is not None:
        raise SiteError(
            "The model was given several texts packed into one row (generate_batch does so), in which hooks cannot "
            "tell where a text begins. Use LanguageModel.generate, or give a padded batch with its attention mask."
        )
    batch, seq = given.shape[:2]
    device = given.device
    mask = arguments.get("attention_mask")
    cache, lens_cache = arguments.get("past_key_values"), arguments.get("past_kv_cache")
    past = int(cache.get_seq_length()) if cache is not None else 0
    if lens_cache is not None:  # that of a HookedTransformer, which keeps the mask of what it holds, where it had one
        past = lens_cache[0].past_keys.shape[1]
        if mask is not None and lens_cache.previous_attention_mask.shape[1] == past:
            mask = torch.cat([lens_cache.previous_attention_mask, mask[:, -seq:]], dim=-1)
    if mask is None:
        mask = torch.ones(batch, past + seq, dtype=torch.long, device=device)
    if tuple(mask.shape) != (batch, past + seq):
        raise SiteError(
            f"Hooks need an attention mask of shape {[batch, past + seq]} to tell padding, got {list(mask.shape)}."
        )
    positions = None if known is None else known.positions
    if positions is None:
        mask = mask.bool()
        positions = positions_of(mask.long())[:, -seq:]
    real, tokens = mask[:, -seq:].bool(), None if given.is_floating_point() else given
    if known is None:
        generated = torch.full((batch, seq), past > 0, device=device)
        prompt_tokens = None if past else mask.sum(-1)
        memory = {} if memory is None else memory
        if not past:
            memory.clear()
        rows = torch.arange(batch, device=device)
        told_apart = not past or seq == 1
        return Pass(real, positions, generated, tokens, prompt_tokens, rows, batch, memory, None, False, told_apart)
    if known.copies > 1:
        real, positions = real.repeat_interleave(known.copies, 0), positions.repeat_interleave(known.copies, 0)
        tokens = None if tokens is None else tokens.repeat_interleave(known.copies, 0)
    generated = positions >= known.prompt_tokens.unsqueeze(-1)
    return Pass(
        real, positions, generated, tokens, known.prompt_tokens, known.index, known.n_rows, known.memory, known.said
    )
