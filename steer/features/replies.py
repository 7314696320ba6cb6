"""The unsteered model's own replies to prompts, and what became of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from steer.evals.sample import Sample
from steer.features.trial import Trial
from steer.judges.rules import is_incoherent, is_refusal
from steer.models.batches import batches_of
from steer.models.roles import PromptIds


@dataclass(frozen=True)
class PlainReply:
    """A prompt and the unsteered model's reply to it."""

    sample: Sample
    prompt_ids: PromptIds
    reply_ids: list[int]
    text: str

    @property
    def refused(self) -> bool:
        """Whether it refuses; a broken reply does not."""
        return refuses(self.text)


def refuses(reply: str) -> bool:
    """Whether a reply is a refusal and not broken."""
    return is_refusal(reply) and not is_incoherent(reply)


def answer(trial: Trial, samples: Sequence[Sample]) -> list[PlainReply]:
    """Replies of the model as it is, in the order of the samples."""
    lm = trial.lm
    prompts = lm.prompt_ids([sample.messages for sample in samples])
    found: dict[int, PlainReply] = {}
    for batch in batches_of([len(prompt) for prompt in prompts], trial.batch_size):
        replies = lm.generate_ids([prompts[i] for i in batch], trial.sampling)
        for i, ids in zip(batch, replies, strict=True):
            text = lm.tokenizer.decode(ids, skip_special_tokens=True).strip()
            found[i] = PlainReply(samples[i], prompts[i], list(ids), text)
        trial.done(len(batch))
    return [found[i] for i in range(len(samples))]
