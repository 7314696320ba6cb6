"""Evaluating a language model, steered or not, on samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from steer.checks import require_whole
from steer.errors import DataError
from steer.evals.judges import Score, judge, judge_choice
from steer.evals.sample import Sample
from steer.evals.stats import Rate
from steer.models.batches import batches_of
from steer.models.decode import Sampling
from steer.models.model import LanguageModel


@dataclass(frozen=True)
class Result:
    """A sample with the model's reply and its verdict."""

    sample: Sample
    reply: str
    """The generated text; for a choice, the choice taken."""
    score: Score

    def row(self) -> dict[str, Any]:
        """As a line of ``completions.jsonl``."""
        return {
            "set": self.sample.set,
            "id": self.sample.id,
            "messages": list(self.sample.messages),
            "reply": self.reply,
            "verdict": self.score.verdict,
            "value": self.score.value,
        }


def evaluate(
    lm: LanguageModel,
    samples: Sequence[Sample],
    max_new_tokens: int = 64,
    batch_size: int = 256,
    on_done: Callable[[int], None] | None = None,
) -> list[Result]:
    """Replies and verdicts for all samples, in their order; ``on_done`` is told how many more are finished.

    Replies are greedy. The model is evaluated as it is: put the call inside ``with steered(...)`` to evaluate it
    steered; values given per row are then values per sample. Prompts of similar length share a batch, so little is
    spent on padding.

    Raises:
        DataError: ``batch_size`` or ``max_new_tokens`` is below 1, a prompt is malformed or too long, or logits are
            not finite.
    """
    require_whole("batch_size", batch_size, DataError)
    require_whole("max_new_tokens", max_new_tokens, DataError)
    if strange := [sample for sample in samples if not isinstance(sample, Sample)]:
        raise DataError(f"Samples are evaluated, got {type(strange[0]).__name__}. Make them with Sample(...).")
    prompts = lm.prompt_ids([sample.messages for sample in samples])
    results: dict[int, Result] = {}
    for choice in (True, False):
        chosen = [i for i, sample in enumerate(samples) if (sample.kind == "choice") == choice]
        for places in batches_of([len(prompts[i]) for i in chosen], batch_size):
            batch = [chosen[place] for place in places]
            rows = [prompts[i] for i in batch]
            group = [samples[i] for i in batch]
            with lm.running(batch, len(samples)):
                done = _choices(lm, group, rows) if choice else _replies(lm, group, rows, max_new_tokens)
            results.update(zip(batch, done, strict=True))
            if on_done:
                on_done(len(batch))
    return [results[i] for i in range(len(samples))]


def rate(results: Sequence[Result]) -> Rate:
    """Share of the results that count: refused for refusal sets, right for the others."""
    return Rate(sum(result.score.value for result in results), len(results))


def _replies(
    lm: LanguageModel, samples: Sequence[Sample], prompts: Sequence[list[int]], max_new_tokens: int
) -> list[Result]:
    generated = lm.generate_ids(prompts, Sampling(max_new_tokens=max_new_tokens))
    texts = [lm.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in generated]
    return [Result(sample, text, judge(sample, text)) for sample, text in zip(samples, texts, strict=True)]


def _choices(lm: LanguageModel, samples: Sequence[Sample], prompts: Sequence[list[int]]) -> list[Result]:
    """Log-likelihood of every choice as the start of the reply."""
    options = [lm.encode(sample.expect["choices"]) for sample in samples]
    results = []
    for sample, logprobs in zip(samples, lm.choice_logprobs(prompts, options), strict=True):
        taken, score = judge_choice(sample, logprobs)
        results.append(Result(sample, taken, score))
    return results
