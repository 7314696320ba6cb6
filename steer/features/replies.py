"""The unsteered model's own replies to prompts, and what became of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from steer.evals.sample import Sample
from steer.features.kept import of_tokens
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
    lm, kept = trial.lm, trial.kept
    prompts = lm.prompt_ids([sample.messages for sample in samples])
    keys = [(None, of_tokens([prompt])) for prompt in prompts] if kept else []
    found: dict[int, list[int]] = {}
    if kept:
        found = {i: kept.replies[key] for i, key in enumerate(keys) if key in kept.replies}
        trial.done(len(found))
    missing = [i for i in range(len(prompts)) if i not in found]
    for batch in batches_of([len(prompts[i]) for i in missing], trial.batch_size):
        places = [missing[i] for i in batch]
        replies = lm.generate_ids([prompts[i] for i in places], trial.sampling)
        if kept:
            kept.add_replies([keys[i] for i in places], replies)
        found.update((i, list(ids)) for i, ids in zip(places, replies, strict=True))
        trial.done(len(batch))
    texts = [lm.tokenizer.decode(found[i], skip_special_tokens=True).strip() for i in range(len(samples))]
    return [PlainReply(samples[i], prompts[i], found[i], text) for i, text in enumerate(texts)]
