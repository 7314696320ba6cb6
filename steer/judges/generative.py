"""Judge models that run here, through transformers: greedy, in batches, and only their new tokens are read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from steer.activations.identity import revision, tokenizer_digest, weights_digest
from steer.activations.sources.source import short_digest
from steer.checks import require_whole
from steer.errors import DataError, ModelError
from steer.judges.asked import Prompt, Request, Written
from steer.judges.markers import special_tokens
from steer.models.batches import batches_of, is_out_of_memory
from steer.models.decode import Sampling
from steer.models.model import LanguageModel


@dataclass(frozen=True)
class ModelWriter:
    """A language model that writes what it finds most likely.

    Raises:
        DataError: ``batch_size`` is below 1.
    """

    lm: LanguageModel
    batch_size: int = 16
    """Prompts that are run together at most; what is written does not depend on it. Halved where memory runs out."""

    def __post_init__(self) -> None:
        require_whole("batch_size", self.batch_size, DataError)

    @property
    def name(self) -> str:
        """The hub's name of the model, or that of its folder."""
        return Path(self.lm.name).name if Path(self.lm.name).is_dir() else self.lm.name

    @cached_property
    def version(self) -> str:
        """The hub's commit; of a folder, a digest of a sample of the weights and of the tokenizer."""
        return (revision(self.lm) or short_digest([weights_digest(self.lm), tokenizer_digest(self.lm)]))[:12]

    @cached_property
    def markers(self) -> tuple[str, ...]:
        """Every special token of the tokenizer."""
        return special_tokens(self.lm.tokenizer)

    def settings(self) -> dict[str, Any]:
        """The model and how it is run, as JSON data."""
        return {
            "model": self.name,
            "version": self.version,
            "tokenizer": tokenizer_digest(self.lm),
            "dtype": str(next(self.lm.model.parameters()).dtype).removeprefix("torch."),
            "decoding": "greedy",
        }

    def write(self, requests: Sequence[Request], max_new_tokens: int) -> Iterator[tuple[int, Written]]:
        """See ``steer.judges.asked.Writer``. A prompt that is too long gets a shorter reply, and a note.

        Raises:
            ModelError: there is no memory for a single prompt.
        """
        rows: dict[int, list[int]] = {}
        notes: dict[int, str] = {}
        for place, request in enumerate(requests):
            try:
                rows[place], notes[place] = self._fitting(request, max_new_tokens)
            except DataError as error:
                yield place, Written(failure=str(error))
        places = list(rows)
        for batch in batches_of([len(rows[place]) for place in places], self.batch_size):
            chosen = [places[number] for number in batch]
            for place, written in self._continued({place: rows[place] for place in chosen}, max_new_tokens):
                yield place, Written(written.text, written.cut, written.failure, notes[place])

    def _continued(self, rows: dict[int, list[int]], limit: int) -> Iterator[tuple[int, Written]]:
        """What follows each row; rows that cannot be run together are run by halves, and alone in the end."""
        places = list(rows)
        try:
            replies = self.lm.generate_ids(list(rows.values()), Sampling(limit))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(places) == 1:
                raise ModelError(
                    f"There is no memory for the judge {self.name} to read {len(rows[places[0]])} tokens. "
                    "Use a smaller one, dtype bfloat16, or an endpoint."
                ) from error
            replies = None
            torch.cuda.empty_cache()  # does nothing where there is no CUDA
        except DataError as error:  # logits that are not finite
            if len(places) == 1:
                yield places[0], Written(failure=str(error))
                return
            replies = None
        if replies is None:
            half = len(places) // 2
            for part in (places[:half], places[half:]):
                yield from self._continued({place: rows[place] for place in part}, limit)
            return
        for place, reply in zip(places, replies, strict=True):
            yield place, Written(self.lm.tokenizer.decode(reply, skip_special_tokens=True), cut=len(reply) == limit)

    def _fitting(self, request: Request, limit: int) -> tuple[list[int], str]:
        """The tokens of a prompt, about a reply that is shortened until all of it fits, and a note if it was.

        Raises:
            DataError: it does not fit even so, or is malformed.
        """
        row = self._ids(request.ask(request.reply))
        if (over := self._over(row, limit)) <= 0:
            return row, ""
        reply = self.lm.encode([request.reply])[0]
        kept = len(reply)
        while over > 0:
            kept -= over
            if kept <= 0:
                raise DataError(
                    f"The request alone is too long for the judge {self.name}, which reads {self.lm.context} tokens."
                )
            row = self._ids(request.ask(self.lm.tokenizer.decode(reply[:kept], skip_special_tokens=True)))
            over = self._over(row, limit)
        return row, f"the judge read the first {kept} of {len(reply)} tokens of the reply"

    def _over(self, row: list[int], limit: int) -> int:
        """Tokens by which prompt and answer exceed the model's context."""
        return 0 if self.lm.context is None else len(row) + limit - self.lm.context

    def _ids(self, prompt: Prompt) -> list[int]:
        """Tokens of a prompt: rendered by the chat template, or as it stands with one token in front that begins it."""
        if prompt.text is None:
            return list(self.lm.prompt_ids([prompt.conversation])[0])
        ids, begin = self.lm.encode([prompt.text])[0], self.lm.tokenizer.bos_token_id
        return ids if begin is None or ids[:1] == [begin] else [begin, *ids]
