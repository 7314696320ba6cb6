"""What latents are tried on, and the replies of a model with one of them clamped: many latents in each batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from saes import SAE
from steer.checks import require_whole
from steer.errors import DataError
from steer.evals.sample import Sample
from steer.features.kept import Kept, of_tokens
from steer.forks import forked
from steer.models.batches import batches_of
from steer.models.decode import Sampling
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.steering.each_row import clamp_each_row
from steer.steering.steered import steered

Read = TypeVar("Read")


@dataclass(frozen=True)
class Trial:
    """What latents are tried on: a model with an SAE at a site, and development prompts.

    Raises:
        DataError: there are no prompts of a kind, or ``batch_size`` is below 1.
    """

    lm: LanguageModel
    sae: SAE
    site: Site
    unsafe: Sequence[Sample]
    """Prompts that should be refused."""
    safe: Sequence[Sample]
    """Prompts that should not."""
    max_new_tokens: int
    """Length limit of a reply."""
    batch_size: int = 128
    """Replies made together, at most."""
    processes: int = 1
    """Processes that share the work (``forked``); the result does not depend on it."""
    on_done: Callable[[int], None] | None = None
    """Called with the number of replies whenever some are made, or found in ``kept``."""
    kept: Kept | None = None
    """Replies and damage that are not measured again, and to which those that are made are added."""

    def __post_init__(self) -> None:
        require_whole("batch_size", self.batch_size, DataError)
        if not self.unsafe or not self.safe:
            raise DataError(
                f"Candidates need prompts of both kinds: got {len(self.unsafe)} unsafe and {len(self.safe)} safe."
            )

    @property
    def samples(self) -> list[Sample]:
        """All prompts, the unsafe ones first."""
        return [*self.unsafe, *self.safe]

    @property
    def sampling(self) -> Sampling:
        """Greedy, to the length limit."""
        return Sampling(max_new_tokens=self.max_new_tokens)

    def done(self, replies: int) -> None:
        """Tell that so many more replies are there."""
        if self.on_done:
            self.on_done(replies)


@dataclass(frozen=True, order=True)
class Arm:
    """A latent clamped to a value."""

    latent: int
    strength: float
    """In raw activation units."""


def replies_under(
    trial: Trial, samples: Sequence[Sample], jobs: Sequence[tuple[Arm, int]], read: Callable[[str], Read]
) -> list[Read]:
    """What is read from the reply of each job, in their order: a latent is clamped, and one of ``samples`` answered.

    All jobs share batches: every row of a batch has its own latent clamped to its own value.
    """
    lm, kept = trial.lm, trial.kept
    prompts = lm.prompt_ids([list(sample.messages) for sample in samples])
    prompt_digests = [of_tokens([prompt]) for prompt in prompts] if kept else []

    def key(job: tuple[Arm, int]) -> tuple[tuple[int, float], str]:
        return (job[0].latent, job[0].strength), prompt_digests[job[1]]

    def said(reply: Sequence[int]) -> Read:
        return read(lm.tokenizer.decode(list(reply), skip_special_tokens=True))

    def answered(batch: Sequence[int]) -> list[tuple[list[int], Read]]:
        arms, places = zip(*(jobs[i] for i in batch), strict=True)
        latents, values = [arm.latent for arm in arms], [arm.strength for arm in arms]
        with steered(lm, clamp_each_row(trial.sae, latents, values, trial.site)):
            replies = lm.generate_ids([prompts[place] for place in places], trial.sampling)
        return [(list(reply), said(reply)) for reply in replies]

    found: dict[int, Read] = {}
    if kept:
        found = {i: said(kept.replies[key(job)]) for i, job in enumerate(jobs) if key(job) in kept.replies}
        trial.done(len(found))
    missing = [i for i in range(len(jobs)) if i not in found]
    lengths = [len(prompts[jobs[i][1]]) for i in missing]
    batches = [[missing[i] for i in batch] for batch in batches_of(lengths, trial.batch_size)]
    for batch, done in zip(batches, forked(answered, batches, trial.processes), strict=True):
        if kept:
            kept.add_replies([key(jobs[i]) for i in batch], [ids for ids, _ in done])
        found.update(zip(batch, (reading for _, reading in done), strict=True))
        trial.done(len(batch))
    return [found[i] for i in range(len(jobs))]
