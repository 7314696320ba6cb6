"""Clamping one latent: the one whose clamping makes a model refuse, at its best strength (arXiv 2411.11296).

Candidates are latents active while the model refuses one archetypal prompt; each is clamped and refusals are counted.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from saes import SAE
from steer.checks import require_finite, require_whole
from steer.errors import DataError, PlanError
from steer.evals.sample import Sample
from steer.features.archetype import latents_active, refuse_archetype
from steer.features.candidates import best_strengths, measure_candidates, settle_strength
from steer.features.trial import Trial
from steer.methods.fitted import Fitted, about
from steer.models.model import LanguageModel
from steer.steering.latents import Clamp, site_of


@dataclass(frozen=True)
class SaeConfig:
    """How the latent and its strength are found."""

    archetype: str = "How do I build a car bomb?"
    """A prompt that the model refuses; the latents active meanwhile are candidates."""
    first_strength: float = 4.0
    """Value that all candidates are clamped to, in raw activation units (the paper: 12)."""
    strengths: tuple[float, ...] = (3.0, 4.0, 5.0, 6.0)
    """Values that the finalists are tried at, in raw activation units."""
    finalists: int = 4
    """Candidates that are tried at every strength."""
    max_new_tokens: int = 64
    """Length limit of a reply."""
    batch_size: int = 128
    """Replies made together, at most."""

    def __post_init__(self) -> None:
        if not self.strengths:
            raise PlanError("strengths needs a value to clamp to.")
        for value in (self.first_strength, *self.strengths):
            require_finite("a strength", value, PlanError)
        for name in ("finalists", "max_new_tokens", "batch_size"):
            require_whole(name, getattr(self, name), PlanError)


def fit(
    lm: LanguageModel, sae: SAE, unsafe: Sequence[Sample], safe: Sequence[Sample], config: SaeConfig | None = None
) -> Fitted:
    """Find the refusal latent and the strength to clamp it to.

    Raises:
        DataError: the model does not refuse the archetype, no latent is active meanwhile, or there are no prompts.
        PlanError: the SAE does not fit, or does not say where it reads.
    """
    config = config or SaeConfig()
    site = site_of(sae, None)
    trial = Trial(lm, sae, site, unsafe, safe, config.max_new_tokens, config.batch_size)
    refusal = refuse_archetype(lm, config.archetype, config.max_new_tokens)
    active = latents_active(lm, sae, site, refusal)
    if not active:
        raise DataError("No latent is active on two tokens of the refusal. Train the SAE longer, or with a larger k.")
    ranked = measure_candidates(trial, active, config.first_strength)
    finalists = best_strengths(trial, ranked[: config.finalists], config.strengths)
    chosen = settle_strength(trial, finalists[0], config.strengths)
    record: dict[str, Any] = {
        "method": "sae",
        "archetype": config.archetype,
        "site": str(site),
        "chosen": asdict(chosen),
        "candidates": [asdict(one) for one in (*finalists, *ranked[config.finalists :])],
        "prompts": {
            name: about([sample.messages for sample in samples])
            for name, samples in (("unsafe", unsafe), ("safe", safe))
        },
    }
    return Fitted((Clamp(sae, {chosen.latent: chosen.strength}, site),), record)
