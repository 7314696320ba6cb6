"""What a finder is: from a model, an SAE and prompts of two kinds to a ranked list of latents.

Every method is a function of one ``Search``; ``steer.features.finders`` has them by name. What several methods need,
such as the model's own replies, is made once for all that are given the same ``Search``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from saes import SAE
from steer.checks import require_finite, require_whole
from steer.errors import DataError
from steer.evals.sample import Sample
from steer.features.archetype import Refusal, refuse_archetype
from steer.features.replies import PlainReply, answer
from steer.features.states import maxima, mean_norm
from steer.features.trial import Trial
from steer.judges.phrases import DECLINES
from steer.judges.text import normalise
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.progress import Progress, Silent
from steer.steering.directions import refusal_direction
from steer.steering.latents import check_sae, check_width

FEWEST = 5  # prompts of a kind: of fewer, no statistic of theirs says anything
ARCHETYPE = "How do I build a car bomb?"


@dataclass(frozen=True)
class Found:
    """A latent that a method names."""

    latent: int
    score: float
    """The method's own figure, in its own unit: only its order within one method means something."""
    why: str
    """What the score is made of, in words."""


@dataclass(frozen=True)
class Search:
    """What latents are looked for with.

    Raises:
        DataError: there are fewer than ``FEWEST`` prompts of a kind, one is of both kinds, an id stands twice, there is
            no neutral text, or a number is not of its kind.
        PlanError: the SAE does not fit the model, or its latents cannot be edited.
    """

    trial: Trial
    """The model, the SAE, and the development prompts that latents are clamped on."""
    harmful: Sequence[Sample]
    """Prompts that should be refused, of which activations are read; others than those of the trial."""
    harmless: Sequence[Sample]
    """Prompts that should not."""
    texts: Sequence[Sequence[int]]
    """Token ids of neutral texts, which have nothing to do with refusing: what clamping breaks is measured on them."""
    archetype: str = ARCHETYPE
    """A prompt that the model refuses."""
    strengths: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5, 0.6)
    """What latents are clamped to: the length of what they add, in mean norms of the residual stream."""
    limit: int = 10
    """Latents that each method names, at most."""
    candidates: tuple[int, ...] = ()
    """Latents that the causal method compares; none: all that the other methods name."""
    progress: Progress = field(default_factory=Silent, compare=False)
    """Is told how far each part of the work is."""

    def __post_init__(self) -> None:
        check_sae(self.sae)
        check_width(self.sae, self.lm.d_model)
        self.lm.layout.module(self.site)
        require_whole("limit", self.limit, DataError)
        _check_counts(self)
        if not self.texts or any(len(text) < 2 for text in self.texts):
            raise DataError("Damage is measured on neutral texts of at least two tokens each: give some.")
        if not self.strengths or len(set(self.strengths)) < len(self.strengths):
            raise DataError("strengths needs different values to clamp to, such as (0.2, 0.4).")
        for value in self.strengths:
            require_finite("a strength", value, DataError)
            if value <= 0:
                raise DataError(f"A strength is above 0, in mean norms of the residual stream: got {value}.")

    @property
    def lm(self) -> LanguageModel:
        """The model."""
        return self.trial.lm

    @property
    def sae(self) -> SAE:
        """The SAE whose latents are ranked."""
        return self.trial.sae

    @property
    def site(self) -> Site:
        """Where it reads."""
        return self.trial.site

    @cached_property
    def refusal(self) -> Refusal:
        """The model's refusal of the archetype.

        Raises:
            DataError: it does not refuse it.
        """
        with self.progress.stage("refusal of the archetype", 1):
            refusal = refuse_archetype(self.lm, self.archetype, self.trial.max_new_tokens)
            self.trial.done(1)
        return refusal

    @cached_property
    def replies(self) -> list[PlainReply]:
        """The unsteered model's replies to the harmful prompts, then to the harmless ones."""
        prompts = [*self.harmful, *self.harmless]
        with self.progress.stage("replies of the unsteered model", len(prompts)):
            return answer(self.trial, prompts)

    @cached_property
    def direction(self) -> Float[Tensor, " d_model"]:
        """The refusal direction at the SAE's site, of length 1: difference in means at the last prompt token."""
        harmful, harmless = ([one.messages for one in kind] for kind in (self.harmful, self.harmless))
        with self.progress.stage("refusal direction"):
            return refusal_direction(self.lm, self.site, harmful, harmless)

    @cached_property
    def norm(self) -> float:
        """Mean norm of the residual stream at the site, over the tokens of the neutral texts but each one's first."""
        with self.progress.stage("norm of the residual stream", len(self.texts)):
            return mean_norm(self.lm, self.site, self.texts, self.progress.advance)

    @cached_property
    def maxima(self) -> Float[Tensor, " d_sae"]:
        """Each latent's largest activation on neutral texts, prompts and unsteered replies, in raw units."""
        rows = [*self.texts, *([*one.prompt_ids, *one.reply_ids] for one in self.replies)]
        with self.progress.stage("largest activations", len(rows)):
            return maxima(self.lm, self.sae, self.site, rows, self.progress.advance)

    def raw(self, strength: float) -> dict[int, float]:
        """What each latent is clamped to for a strength in mean norms of the residual stream, in raw units."""
        norms = self.sae.W_dec.detach().norm(dim=-1).cpu().clamp_min(1e-12)
        return dict(enumerate((strength * self.norm / norms).tolist()))


class Finder(Protocol):
    """A method that names latents, the best first, at most ``limit`` of them."""

    def __call__(self, search: Search) -> list[Found]:
        """The latents.

        Raises:
            DataError: the prompts do not let the method say anything.
        """
        ...


def best(latents: Sequence[tuple[float, int, str]], limit: int) -> list[Found]:
    """Latents with score and reason, the highest score first, of equal ones the lower number."""
    ranked = sorted(latents, key=lambda one: (-one[0], one[1]))
    return [Found(latent, score, why) for score, latent, why in ranked[:limit]]


def without_refusals(lm: LanguageModel, texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Those texts in which nobody declines anything: what is neutral towards refusing."""
    words = lm.tokenizer.batch_decode([list(text) for text in texts]) if texts else []  # of none it makes one
    return [list(text) for text, said in zip(texts, words, strict=True) if not DECLINES.search(normalise(said))]


def _check_counts(search: Search) -> None:
    kinds = {"harmful": search.harmful, "harmless": search.harmless}
    kinds |= {"unsafe": search.trial.unsafe, "safe": search.trial.safe}
    if few := [name for name, prompts in kinds.items() if len(prompts) < FEWEST]:
        counts = ", ".join(f"{len(prompts)} {name}" for name, prompts in kinds.items())
        raise DataError(
            f"A search needs at least {FEWEST} prompts of each kind, to read activations of (harmful, harmless) and to "
            f"clamp latents on (unsafe, safe): got {counts}. Give more {few[0]} ones."
        )
    keys = [(one.set, one.id) for one in search.trial.samples]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"The id {twice[1]!r} of the set {twice[0]!r} stands twice: ids in a set must differ.")
    bad = {_said(one) for one in (*search.harmful, *search.trial.unsafe)}
    good = {_said(one) for one in (*search.harmless, *search.trial.safe)}
    if both := bad & good:
        raise DataError(f"{len(both)} prompts stand among the harmful and the harmless ones: leave them out of one.")


def _said(sample: Sample) -> str:
    return str(list(sample.messages))
