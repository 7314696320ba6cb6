"""What latents are tried on, and the replies of a model with one of them clamped: many latents in each batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from saes import SAE
from steer.checks import require_whole
from steer.errors import DataError
from steer.evals.sample import Sample
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
    """Called with the number of replies whenever some are made."""

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
        """Tell that so many more replies are made."""
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
    lm = trial.lm
    prompts = lm.prompt_ids([list(sample.messages) for sample in samples])
    batches = batches_of([len(prompts[place]) for _, place in jobs], trial.batch_size)

    def answered(batch: Sequence[int]) -> list[Read]:
        arms, places = zip(*(jobs[i] for i in batch), strict=True)
        latents, values = [arm.latent for arm in arms], [arm.strength for arm in arms]
        with steered(lm, clamp_each_row(trial.sae, latents, values, trial.site)):
            replies = lm.generate_ids([prompts[place] for place in places], trial.sampling)
        return [read(lm.tokenizer.decode(reply, skip_special_tokens=True)) for reply in replies]

    found: dict[int, Read] = {}
    for batch, done in zip(batches, forked(answered, batches, trial.processes), strict=True):
        found.update(zip(batch, done, strict=True))
        trial.done(len(batch))
    return [found[i] for i in range(len(jobs))]
