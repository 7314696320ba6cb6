"""Judges that are classifiers: models for sequence classification, whose labels are mapped to verdicts."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from steer.activations.identity import module_digest
from steer.checks import require_whole
from steer.errors import DataError, ModelError
from steer.judges.asked import prompt_text, verdicts_of
from steer.judges.markers import READING, cleaned, special_tokens
from steer.judges.templates import check_template, filled
from steer.judges.verdict import VERDICTS, Exchange, Judgement, Verdict
from steer.models.batches import is_out_of_memory
from steer.models.classifier import TextClassifier

_UNLIMITED = 10**6  # tokens: tokenizers write huge numbers for "no limit"


@dataclass(frozen=True)
class ClassifierJudge:
    """The verdict of the most probable class; the score is its probability, by softmax over the classes.

    A model with one logit has two classes, of which the sigmoid is the probability of the second.

    Raises:
        DataError: the map names a class that the model lacks, leaves one out, or has what is no verdict.
    """

    classifier: TextClassifier
    model: str
    """Where it comes from: a hub name or a folder."""
    verdicts: Mapping[str, str]
    """The verdict for each of its labels, as its config names them."""
    template: str | None = None
    """With ``{reply}`` and, unless the classifier reads the reply alone, ``{prompt}``; None: a pair of texts."""
    batch_size: int = 32
    """Exchanges that are read together at most; halved where memory runs out."""

    def __post_init__(self) -> None:
        require_whole("batch_size", self.batch_size, DataError)
        if self.template is not None:
            check_template(self.template, "The classifier's template", ("reply",))
        if missing := [label for label in self.labels if label not in self.verdicts]:
            raise DataError(
                f"The label {missing[0]!r} of {self.model} has no verdict. Its labels are {', '.join(self.labels)}; "
                f"give each one of {', '.join(VERDICTS)}."
            )
        if odd := [label for label in self.verdicts if label not in self.labels]:
            raise DataError(f"{self.model} has no label {odd[0]!r}: it has {', '.join(self.labels)}.")
        verdicts_of(self.verdicts, f"The labels of {self.model}")

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, by number."""
        config: Any = self.classifier.model.config
        return tuple(str(config.id2label[number]) for number in sorted(config.id2label))

    @property
    def name(self) -> str:
        """What it is, with the hub's name of the model, or that of its folder."""
        return f"classifier:{Path(self.model).name if Path(self.model).is_dir() else self.model}"

    @cached_property
    def version(self) -> str:
        """The hub's commit; of a folder, a digest of a sample of the weights."""
        config: Any = self.classifier.model.config
        return (getattr(config, "_commit_hash", None) or module_digest(self.classifier.model))[:12]

    def settings(self) -> dict[str, Any]:
        """Model, map and template, as JSON data."""
        return {
            "model": self.name,
            "version": self.version,
            "verdicts": dict(self.verdicts),
            "template": self.template,
            "reading": READING,
        }

    def judge(self, exchanges: Sequence[Exchange]) -> list[Judgement]:
        """A judgement for each exchange, in their order."""
        found = dict(self.each(exchanges))
        return [found[place] for place in range(len(exchanges))]

    def each(self, exchanges: Sequence[Exchange]) -> Iterator[tuple[int, Judgement]]:
        """The place of each exchange and its judgement. An empty reply is ``incoherent`` and not read.

        Raises:
            ModelError: there is no memory for a single exchange.
        """
        markers = special_tokens(self.classifier.tokenizer)
        texts = {}
        for place, exchange in enumerate(exchanges):
            reply = cleaned(exchange.reply, markers)
            if reply.strip():
                texts[place] = (cleaned(prompt_text(exchange.messages), markers), reply)
            else:
                yield place, self._judgement("incoherent", None, "the reply is empty: not read")
        places = sorted(texts, key=lambda place: sum(map(len, texts[place])))
        for start in range(0, len(places), self.batch_size):
            batch = places[start : start + self.batch_size]
            for place, one in zip(batch, self._read([texts[place] for place in batch]), strict=True):
                yield place, one

    def _read(self, pairs: list[tuple[str, str]]) -> list[Judgement]:
        try:
            rows, cut = self._probabilities(pairs)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(pairs) == 1:
                raise ModelError(
                    f"There is no memory for the judge {self.name} to read one exchange. Use a smaller one, dtype "
                    "bfloat16, or an endpoint."
                ) from error
            rows = None
            torch.cuda.empty_cache()  # does nothing where there is no CUDA
        if rows is None:
            half = len(pairs) // 2
            return [*self._read(pairs[:half]), *self._read(pairs[half:])]
        return [self._decided(row, short) for row, short in zip(rows, cut, strict=True)]

    def _decided(self, row: list[float], cut: bool) -> Judgement:
        if not all(map(math.isfinite, row)):
            return self._judgement("unscored", None, "the classifier's logits are not finite")
        best = max(range(len(row)), key=lambda number: row[number])
        label = self.labels[best]
        reason = f"the class {label!r}" + ("; as much as it reads, which may not be all" if cut else "")
        return self._judgement(verdicts_of(self.verdicts, self.model)[label], row[best], reason, label)

    def _judgement(self, verdict: Verdict, score: float | None, reason: str, raw: str = "") -> Judgement:
        return Judgement(verdict, self.name, self.version, score, reason, raw)

    @torch.inference_mode()
    def _probabilities(self, pairs: list[tuple[str, str]]) -> tuple[list[list[float]], list[bool]]:
        """The probability of each class, for each pair of prompt and reply, and whether it fills what can be read."""
        model: Any = self.classifier.model
        tokenizer = self.classifier.tokenizer
        limits = (tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None))
        longest = min((limit for limit in limits if limit and limit < _UNLIMITED), default=None)
        if self.template is None:
            texts = [[prompt for prompt, _ in pairs], [reply for _, reply in pairs]]
        else:
            texts = [[filled(self.template, {"prompt": prompt, "reply": reply}) for prompt, reply in pairs]]
        cut = "longest_first" if longest is not None else False
        read = tokenizer(*texts, padding=True, truncation=cut, max_length=longest, return_tensors="pt")
        logits = model(**read.to(next(model.parameters()).device)).logits.float().cpu()
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        lengths = read["attention_mask"].sum(-1)
        return logits.softmax(-1).tolist(), [length == longest for length in lengths.tolist()]
