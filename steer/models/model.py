"""A language model with its tokenizer: load, tokenise, read activations, generate, score continuations."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from steer.errors import DataError
from steer.models.chat import Conversation, as_conversation, has_template, render
from steer.models.decode import Sampling, continue_rows
from steer.models.hooks import Attachment, Edit, attached, reading
from steer.models.layout import Layout, find_layout
from steer.models.site import Site


@dataclass(frozen=True)
class Tokens:
    """A left-padded batch of token ids."""

    ids: Int[Tensor, "batch seq"]
    mask: Int[Tensor, "batch seq"]
    """1 for real tokens, 0 for padding."""


@dataclass
class LanguageModel:
    """A causal language model, its tokenizer, and where its layers are."""

    model: nn.Module
    tokenizer: Any
    name: str
    """What it was loaded from: a hub id, a folder, or ``embedded``."""
    layout: Layout = field(init=False)
    attachments: list[Attachment] = field(init=False, default_factory=list)
    """Edits attached at the moment, in order."""

    def __post_init__(self) -> None:
        self.layout = find_layout(self.model)
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token_id = _some_pad_token(self.tokenizer)

    @property
    def device(self) -> torch.device:
        """Device of the first parameter (inputs go there)."""
        return next(self.model.parameters()).device

    @property
    def d_model(self) -> int:
        """Width of the residual stream, in dimensions."""
        return self.layout.d_model

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layout.blocks)

    @property
    def has_chat_template(self) -> bool:
        """Whether prompts are rendered by the tokenizer's own chat template."""
        return has_template(self.tokenizer)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts that already hold their special tokens (as ``render`` makes them)."""
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]

    def prompt_ids(self, prompts: Sequence[str | Conversation]) -> list[list[int]]:
        """Token ids of prompts, each ending where the assistant's reply begins."""
        return self.encode([render(self.tokenizer, as_conversation(prompt), reply=True) for prompt in prompts])

    def pad(self, rows: Sequence[Sequence[int]]) -> Tokens:
        """Left-pad rows of token ids to one length.

        Raises:
            DataError: no rows, or an empty row.
        """
        if not rows or not all(rows):
            raise DataError("Every row needs at least one token: got an empty batch or an empty prompt.")
        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = [[pad] * (longest - len(row)) + list(row) for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        return Tokens(torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device))

    @torch.inference_mode()
    def forward(self, tokens: Tokens) -> Float[Tensor, "batch seq vocab"]:
        """Logits of a batch, positions counted without padding."""
        positions = (tokens.mask.cumsum(-1) - 1).clamp_min(0)
        output = self.model(input_ids=tokens.ids, attention_mask=tokens.mask, position_ids=positions, use_cache=False)
        logits: Tensor = output.logits
        return logits

    @torch.inference_mode()
    def activations(self, tokens: Tokens, sites: Sequence[Site]) -> dict[Site, Float[Tensor, "batch seq d_model"]]:
        """Activations at ``sites``, padding included (select with ``tokens.mask``). Layers above the last are not run.

        Raises:
            SiteError: the model lacks a site.
        """
        with reading(self.layout, sites) as found:
            self.forward(tokens)
        return found

    @contextmanager
    def edited(self, edits: dict[Site, Edit]) -> Iterator[Attachment]:
        """Edit activations at sites while the block runs; see ``steer.steered`` for interventions as data."""
        with attached(self.layout, edits) as attachment:
            self.attachments.append(attachment)
            try:
                yield attachment
            finally:
                self.attachments.remove(attachment)

    def generate(self, prompts: Sequence[str | Conversation], sampling: Sampling | None = None) -> list[str]:
        """Replies to prompts, as text without special tokens. Greedy unless ``sampling`` says otherwise."""
        rows = self.generate_ids(self.prompt_ids(prompts), sampling)
        return [self.tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]

    @torch.inference_mode()
    def generate_ids(self, prompts: Sequence[Sequence[int]], sampling: Sampling | None = None) -> list[list[int]]:
        """Token ids of the replies, without the token that ends them."""
        tokens = self.pad(prompts)
        return continue_rows(
            self.model, tokens.ids, tokens.mask, sampling or Sampling(), self.stop_ids(), self.attachments
        )

    def stop_ids(self) -> list[int]:
        """Tokens that end a reply: those of the generation config, and the tokenizer's end of sequence."""
        configured = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        stops = configured if isinstance(configured, list) else [configured]
        return sorted({stop for stop in [*stops, self.tokenizer.eos_token_id] if stop is not None})

    @torch.inference_mode()
    def continuation_logprobs(
        self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> Float[Tensor, " rows"]:
        """Sum of log-probabilities of each continuation after its prompt (rows are pairs), in float32."""
        tokens = self.pad([[*prompt, *rest] for prompt, rest in zip(prompts, continuations, strict=True)])
        longest = max(map(len, continuations))
        logits = self.forward(tokens)[:, -longest - 1 : -1].float()
        targets = tokens.ids[:, -longest:]
        scores = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        counted = torch.tensor([[0] * (longest - len(rest)) + [1] * len(rest) for rest in continuations])
        return (scores * counted.to(scores)).sum(-1)

    def choice_logprobs(
        self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[float]]:
        """Log-probability of each option as the continuation of its prompt; ``options`` has a list for each prompt.

        Where every option is a single token, one row per prompt answers for all of them.
        """
        if all(len(option) == 1 for group in options for option in group):
            last = self.forward(self.pad(prompts))[:, -1].float().log_softmax(-1)
            return [[last[row, option[0]].item() for option in group] for row, group in enumerate(options)]
        pairs = [(prompt, option) for prompt, group in zip(prompts, options, strict=True) for option in group]
        scores = iter(self.continuation_logprobs([p for p, _ in pairs], [o for _, o in pairs]).tolist())
        return [[next(scores) for _ in group] for group in options]


def _some_pad_token(tokenizer: Any) -> int:
    """A token to pad with where the tokenizer names none; the attention mask hides it, so any will do."""
    for candidate in (tokenizer.eos_token_id, tokenizer.bos_token_id, 0):
        if candidate is not None:
            return int(candidate)
    raise AssertionError("unreachable: 0 is always a candidate")
