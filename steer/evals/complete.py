"""Samples given to a responder: replies, likelihoods of options, or the likelihood of a text, by the kind of sample."""

from collections.abc import Callable, Sequence
from math import isfinite

from steer.errors import DataError, NotFiniteError
from steer.evals.sample import Sample
from steer.evals.task import Completion, Task
from steer.models.decode import Sampling
from steer.responders.responder import Responder, scores_texts

_OPTIONS = ("choice", "choices")


def way(sample: Sample) -> str:
    """How a sample is completed: by scoring ``options``, or the ``text``, or with a ``reply``."""
    return "options" if sample.kind in _OPTIONS else "text" if sample.kind == "text" else "reply"


def complete(responder: Responder, samples: Sequence[Sample], task: Task) -> list[Completion]:
    """What the responder makes of some of the task's samples, in their order; it does not depend on the batch.

    Replies have the task's limit, stop texts and temperature; that to row i of a call is drawn with its seed + i. Where
    steering has made the logits of a reply NaN or infinite, its completion holds the error and no text; log-likelihoods
    are given as they come, NaN among them.

    Raises:
        DataError: a conversation is too long or refused by the chat template, or the responder gives no likelihoods of
            texts and a sample asks for one.
    """
    index, n_rows = responder.lm.rows_run(len(samples))
    found: dict[int, Completion] = {}
    for name, run in _WAYS.items():
        if places := [i for i, one in enumerate(samples) if way(one) == name]:
            with responder.lm.running([index[i] for i in places], n_rows):
                found.update(zip(places, run(responder, [samples[i] for i in places], task), strict=True))
    return [found[i] for i in range(len(samples))]


def one_by_one(
    responder: Responder, samples: Sequence[Sample], run: Callable[[Sequence[Sample]], list[Completion]]
) -> list[Completion]:
    """What ``run`` makes of each sample alone; interventions with a value per row find that of each."""
    index, n_rows = responder.lm.rows_run(len(samples))
    found = []
    for row, sample in zip(index, samples, strict=True):
        with responder.lm.running([row], n_rows):
            found += run([sample])
    return found


def _options(responder: Responder, samples: Sequence[Sample], task: Task) -> list[Completion]:
    options = [list(sample.expect["choices"]) for sample in samples]
    scored = responder.choice_logprobs([sample.messages for sample in samples], options)
    return [
        Completion(sample.id, _likeliest(sample.expect["choices"], logprobs), tuple(logprobs))
        for sample, logprobs in zip(samples, scored, strict=True)
    ]


def _likeliest(options: Sequence[str], logprobs: Sequence[float]) -> str:
    """The likeliest option, the first of several; none where a log-probability is not finite."""
    if not all(map(isfinite, logprobs)):
        return ""
    return options[max(range(len(options)), key=lambda place: logprobs[place])]


def _texts(responder: Responder, samples: Sequence[Sample], task: Task) -> list[Completion]:
    if strange := [sample for sample in samples if len(sample.messages) != 1]:
        raise DataError(f"Sample {strange[0].id!r}: the likelihood of one text is scored, got several messages.")
    scored = scores_texts(responder).text_likelihoods([sample.messages[0]["content"] for sample in samples])
    return [
        Completion(sample.id, logprobs=(one.logprob,), tokens=one.tokens)
        for sample, one in zip(samples, scored, strict=True)
    ]


def _replies(responder: Responder, samples: Sequence[Sample], task: Task) -> list[Completion]:
    sampling = Sampling(task.max_new_tokens, task.temperature, task.top_p, task.seed, stop=task.stop)
    try:
        replies = responder.reply([sample.messages for sample in samples], sampling)
    except NotFiniteError as error:
        if len(samples) == 1:
            return [Completion(samples[0].id, failed=str(error))]
        return one_by_one(responder, samples, lambda alone: _replies(responder, alone, task))
    return [
        Completion(sample.id, str(text), finish=getattr(text, "finish", ""))
        for sample, text in zip(samples, replies, strict=True)
    ]


_WAYS = {"options": _options, "text": _texts, "reply": _replies}
