"""Evaluating a language model, or any other responder, on samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from steer.checks import require_whole
from steer.errors import DataError
from steer.evals.sample import Sample
from steer.evals.scoring import Outcome, judge, judge_choice
from steer.evals.stats import Rate
from steer.models.batches import batches_of
from steer.models.decode import Sampling
from steer.models.model import LanguageModel
from steer.responders.prompted import Unsteered
from steer.responders.responder import Responder, check_responder


@dataclass(frozen=True)
class Result:
    """A sample with the model's reply and its verdict."""

    sample: Sample
    reply: str
    """The generated text; for a choice, the choice taken."""
    score: Outcome

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
    responder: LanguageModel | Responder,
    samples: Sequence[Sample],
    max_new_tokens: int = 64,
    batch_size: int = 256,
    on_done: Callable[[int], None] | None = None,
) -> list[Result]:
    """Replies and verdicts for all samples, in their order; ``on_done`` is told how many more are finished.

    Replies are greedy. A model is evaluated as it is: put the call inside ``with steered(...)`` to evaluate it steered;
    values given per row are then values per sample. Prompts of similar length share a batch, so little is spent on
    padding. A responder makes batches smaller if its own ``batch_size`` says so.

    Raises:
        ModelError: ``responder`` cannot answer.
        DataError: ``batch_size`` or ``max_new_tokens`` is below 1, a prompt is malformed or too long, or logits are
            not finite.
    """
    require_whole("batch_size", batch_size, DataError)
    require_whole("max_new_tokens", max_new_tokens, DataError)
    if strange := [sample for sample in samples if not isinstance(sample, Sample)]:
        raise DataError(f"Samples are evaluated, got {type(strange[0]).__name__}. Make them with Sample(...).")
    responder = Unsteered(responder, batch_size) if isinstance(responder, LanguageModel) else responder
    check_responder(responder)
    lm, sampling = responder.lm, Sampling(max_new_tokens=max_new_tokens)
    prompts = lm.prompt_ids([sample.messages for sample in samples])
    results: dict[int, Result] = {}
    for choice in (True, False):
        chosen = [i for i, sample in enumerate(samples) if (sample.kind == "choice") == choice]
        for places in batches_of([len(prompts[i]) for i in chosen], batch_size):
            batch = [chosen[place] for place in places]
            group = [samples[i] for i in batch]
            with lm.running(batch, len(samples)):
                done = answered(responder, group, sampling)
            results.update(zip(batch, done, strict=True))
            if on_done:
                on_done(len(batch))
    return [results[i] for i in range(len(samples))]


def answered(responder: Responder, samples: Sequence[Sample], sampling: Sampling) -> list[Result]:
    """Replies and verdicts for samples that are answered in one way, by writing or by choosing; nothing is split."""
    if samples[0].kind == "choice":
        return _choices(responder, samples)
    return _replies(responder, samples, sampling)


def rate(results: Sequence[Result]) -> Rate:
    """Share of the results that count: refused for refusal sets, right for the others."""
    return Rate(sum(result.score.value for result in results), len(results))


def _replies(responder: Responder, samples: Sequence[Sample], sampling: Sampling) -> list[Result]:
    texts = responder.reply([sample.messages for sample in samples], sampling)
    return [Result(sample, text, judge(sample, text)) for sample, text in zip(samples, texts, strict=True)]


def _choices(responder: Responder, samples: Sequence[Sample]) -> list[Result]:
    """Log-likelihood of every choice as the start of the reply."""
    options = [sample.expect["choices"] for sample in samples]
    results = []
    for sample, logprobs in zip(
        samples, responder.choice_logprobs([sample.messages for sample in samples], options), strict=True
    ):
        taken, score = judge_choice(sample, logprobs)
        results.append(Result(sample, taken, score))
    return results
