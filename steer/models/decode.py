"""Generating replies token by token with a KV cache, dropping rows as they finish."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from steer.checks import require_finite, require_whole
from steer.errors import NotFiniteError, PlanError
from steer.models.cache import roomy_cache
from steer.models.hooks import Attachment, told
from steer.models.layout import Layout
from steer.models.passes import Rows, positions_of
from steer.models.replies import ReplyIds
from steer.models.widen import widen_cache, widened


@dataclass(frozen=True)
class Sampling:
    """How a reply is generated."""

    max_new_tokens: int = 64
    """Length limit of a reply, in tokens."""
    temperature: float = 0.0
    """0 takes the most likely token (greedy); otherwise logits are divided by it."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens whose probabilities reach this sum."""
    seed: int = 0
    """Row i of a call draws from a generator of its own, seeded with ``seed + i``, and so does each copy of it; unused
    by greedy decoding."""
    use_cache: bool = True
    """Keep keys and values of earlier tokens. Switching it off gives the same tokens, slowly."""
    stop: tuple[str, ...] = ()
    """Texts at which a reply ends, themselves left out."""

    def __post_init__(self) -> None:
        require_whole("seed", self.seed, PlanError, least=0)
        require_whole("max_new_tokens", self.max_new_tokens, PlanError)
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise PlanError(f'stop must be texts that are not empty, got {self.stop!r}. Write stop=("...",) for one.')
        object.__setattr__(self, "stop", tuple(self.stop))
        require_finite("temperature", self.temperature, PlanError)
        require_finite("top_p", self.top_p, PlanError)
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise PlanError(
                f"temperature must not be negative and top_p lie in (0, 1]: got {self.temperature} and {self.top_p}."
            )


@dataclass(frozen=True)
class Contexts:
    """Several contexts for one reply: rows that stand together in a batch and get the same next token."""

    number: int
    """Rows that belong to one reply."""
    mix: Callable[[Float[Tensor, "reply context vocab"]], Float[Tensor, "reply vocab"]]
    """What their logits become together."""


def continue_rows(
    model: nn.Module,
    ids: Int[Tensor, "batch seq"],
    mask: Int[Tensor, "batch seq"],
    sampling: Sampling,
    stop_ids: Sequence[int],
    attachments: Sequence[Attachment],
    call: Rows,
    layout: Layout,
    contexts: Contexts | None = None,
    stopped: Callable[[Sequence[int]], bool] | None = None,
) -> list[ReplyIds]:
    """Continue left-padded prompts; returns the new token ids of each row, without the stop token.

    A row ends with one of ``stop_ids``, or where ``stopped`` says so of its ids, of which the last one then stays. It
    leaves the batch, so the others do not wait for it at full cost. The hooks of ``attachments`` are told which rows
    are left. ``call`` says which row of the caller's each row is. Where it asks for several copies of each prompt, they
    are made while the prompts are read, at the first site of ``attachments``. With several ``contexts`` to a reply,
    those of one reply stand side by side, and a reply is returned for each group.

    Raises:
        NotFiniteError: the logits of a row are.
        SiteError: an attachment did not see a pass.
    """
    number = 1 if contexts is None else contexts.number
    replies = [ReplyIds() for _ in call.index[::number]]
    stops = torch.tensor(list(stop_ids), device=ids.device)
    seeds = [sampling.seed + row // (call.copies * number) for row in call.index[::number].tolist()]
    draw = [torch.Generator().manual_seed(seed) for seed in seeds]
    rows = torch.arange(len(replies), device=ids.device)
    cache = roomy_cache(model) if sampling.use_cache else None
    step, copies, positions = ids, call.copies, positions_of(mask)
    for place in range(sampling.max_new_tokens):
        run = _contexts_of(rows, number)
        now = _rows_left(call, run, copies, positions) if attachments else call
        with told(attachments, now), widened(layout, attachments, len(step), copies):
            output = model(
                input_ids=step,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
                logits_to_keep=1,
            )
        if copies > 1:
            mask, ids, positions = (one.repeat_interleave(copies, 0) for one in (mask, ids, positions))
            widen_cache([] if cache is None else cache.layers, len(step), copies)
            copies = 1
        logits = output.logits[:, -1].float()
        numbers, largest = rows.tolist(), logits.max(-1)  # of each row, and its place: looked at once for both uses
        _check_logits(largest.values, call.index, run, number * call.copies, place)
        if contexts is not None:
            logits = contexts.mix(logits.unflatten(0, (-1, number)))
            largest = logits.max(-1)
        chosen = _choose(logits, largest, sampling, [draw[row] for row in numbers])
        going = ~torch.isin(chosen, stops)
        goes_on = going.tolist()
        for at, (row, token) in enumerate(zip(numbers, chosen.tolist(), strict=True)):
            if goes_on[at]:
                replies[row].append(token)
                goes_on[at] = stopped is None or not stopped(replies[row])
            if not goes_on[at]:
                replies[row].finish = "stop"
        if stopped is not None:
            going = torch.tensor(goes_on, device=going.device)
        if not any(goes_on):
            break
        if not all(goes_on):
            kept = _closed_up(going)
            run = _contexts_of(kept, number)
            rows, chosen, mask, ids, positions = rows[kept], chosen[kept], mask[run], ids[run], positions[run]
            if cache is not None:
                cache.batch_select_indices(run)
        new = (chosen if number == 1 else chosen.repeat_interleave(number)).unsqueeze(-1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=-1)
        if cache is None:
            step = ids = torch.cat([ids, new], dim=-1)
            positions = positions_of(mask)
        else:
            step, positions = new, positions[:, -1:] + 1
    return replies


def _rows_left(call: Rows, run: Int[Tensor, " row"], copies: int, positions: Int[Tensor, "batch seq"]) -> Rows:
    """What is known of the rows that are run, each of which becomes ``copies``."""
    return replace(
        call, index=call.index[run], prompt_tokens=call.prompt_tokens[run], copies=copies, positions=positions
    )


def _contexts_of(replies: Int[Tensor, " reply"], number: int) -> Int[Tensor, " row"]:
    """The rows of the contexts of each reply."""
    if number == 1:
        return replies
    return (replies.unsqueeze(-1) * number + torch.arange(number, device=replies.device)).flatten()


def _check_logits(
    largest: Float[Tensor, " batch"],
    index: Int[Tensor, " _"],
    run: Int[Tensor, " batch"],
    number: int,
    place: int,
) -> None:
    """Single tokens may be ruled out by -inf, but the ``largest`` logit of every row must be a number.

    ``index`` is that of rows of the call, of which ``number`` belong to each prompt.
    """
    broken = ~largest.isfinite()
    if broken.any():
        row = index[run][broken][0].item() // number
        raise NotFiniteError(
            f"The model's logits for prompt {row} (counted from 0) are NaN or infinite at token "
            f"{place} of the reply. If it is steered, steer less strongly; if not, check its weights, or load it in "
            "float32 (float16 overflows easily)."
        )


def _choose(
    logits: Float[Tensor, "batch vocab"],
    largest: torch.return_types.max,
    sampling: Sampling,
    draw: Sequence[torch.Generator],
) -> Int[Tensor, " batch"]:
    """The next token of each row; ``largest`` are its largest logit and the place of it."""
    if sampling.temperature == 0:
        return largest.indices
    # the largest logit becomes 0, so that a tiny temperature makes the others -inf and never the largest inf
    probabilities = ((logits - largest.values.unsqueeze(-1)) / max(sampling.temperature, 1e-30)).softmax(-1)
    ordered, order = probabilities.sort(-1, descending=True)
    # a token stays if those before it have not yet reached top_p, so the first always stays
    ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= sampling.top_p, 0.0)
    uniform = torch.cat([torch.rand(1, generator=generator) for generator in draw]).to(ordered)
    reached = ordered.cumsum(-1) > uniform.unsqueeze(-1) * ordered.sum(-1, keepdim=True)
    return order.gather(-1, reached.int().argmax(-1, keepdim=True)).squeeze(-1)  # the first place that reaches it


def _closed_up(going: Bool[Tensor, " batch"]) -> Int[Tensor, " kept"]:
    """The rows that go on, those at the end in the places of the finished ones, so that few change their place."""
    count = int(going.sum())
    rows = torch.arange(count, device=going.device)
    rows[~going[:count]] = going[count:].nonzero().squeeze(-1) + count
    return rows
