"""The search for the refusal latent in trained SAEs, and for the control beside it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from steer.evals.runner import evaluate, rate
from steer.evals.sample import Sample, by_set
from steer.features.archetype import ActiveLatent
from steer.features.candidates import (
    Candidate,
    best_strengths,
    measure_candidates,
    settle_strength,
    settled_key,
)
from steer.features.controls import Control, rank_controls, unrelated_latents
from steer.features.trial import Trial
from steer.steering.directions import refusal_direction
from steer.studies.config import DemoConfig
from steer.studies.prepare import Prepared
from steer.studies.trained import Trained

CONTROLS = 8  # unrelated latents that are measured on all prompts and told of
Keep = Callable[[Trained, list[Candidate]], None]


@dataclass(frozen=True)
class Found:
    """What the search for the refusal latent gave."""

    trained: Trained
    """The SAE that it is in."""
    best: list[Candidate]
    """The best latent of each SAE, by seed."""
    candidates: list[Candidate]
    """The finalists, then the others, the best first in each group."""
    controls: list[Control]
    """Unrelated latents, first the one that moves refusal least."""
    plain: dict[str, float]
    """Share refused without steering, by set of development prompts."""
    direction: Float[Tensor, " d_model"]
    """Difference in means, of length 1."""

    @property
    def chosen(self) -> int:
        """The latent that carries refusal best."""
        return self.candidates[0].latent

    @property
    def control(self) -> int:
        """The latent that stands beside it."""
        return self.controls[0].latent


def find(
    config: DemoConfig, ready: Prepared, trained: Sequence[Trained], keep: Keep, on_done: Callable[[int], None]
) -> Found:
    """The best latent of each SAE, the best of these, and what it is compared with.

    ``keep`` is given the best SAE so far with its candidates, whenever more is known of them.
    """
    trials = [_trial(config, ready, one, on_done) for one in trained]
    ranked: list[list[Candidate]] = []
    place = 0
    for number, (one, trial) in enumerate(zip(trained, trials, strict=True)):
        candidates: list[Candidate] = []
        for candidates in _narrowed(config, ready, one, trial):
            if number == 0:
                keep(one, candidates)
        ranked.append(candidates)
        if settled_key(candidates[0]) > settled_key(ranked[place][0]):
            place = number
            keep(one, candidates)
    direction = refusal_direction(ready.lm, ready.site, ready.dev.harmful, ready.dev.harmless)
    chosen = ranked[place][0]
    controls, plain = _controls(config, trained[place], trials[place], chosen, direction)
    return Found(trained[place], [one[0] for one in ranked], ranked[place], controls, plain, direction)


def _trial(config: DemoConfig, ready: Prepared, trained: Trained, on_done: Callable[[int], None]) -> Trial:
    """All development prompts, and replies of full length."""
    return Trial(
        lm=ready.lm,
        sae=trained.sae,
        site=ready.site,
        unsafe=ready.dev.unsafe,
        safe=ready.dev.safe,
        max_new_tokens=config.max_new_tokens,
        processes=ready.processes,
        on_done=on_done,
    )


def _narrowed(config: DemoConfig, ready: Prepared, trained: Trained, trial: Trial) -> Iterator[list[Candidate]]:
    """The candidates of one SAE, the best first: all at one strength, then finalists at their best ones, then the first
    at the one it is settled on.
    """
    first = measure_candidates(
        replace(_on_half(trial), max_new_tokens=config.finder_new_tokens), trained.active, config.finder_strength
    )
    yield first
    # from here on at full length: refusals may come late, and replies break late
    finalists, others = first[: config.finalists], first[config.finalists :]
    strengths = [value for value in config.strengths if value > 0] or [config.finder_strength]
    finalists = best_strengths(trial, finalists, _denser(strengths))
    yield [*finalists, *others]
    many = replace(trial, unsafe=ready.dev.many_unsafe)
    chosen = settle_strength(many, finalists[0], _fine(finalists[0].strength, strengths))
    yield [chosen, *finalists[1:], *others]


def _denser(strengths: Sequence[float]) -> list[float]:
    """The strengths of a sweep and the middles between neighbours: a latent's useful range may lie between two."""
    ordered = sorted(strengths)
    return sorted([*ordered, *((low + high) / 2 for low, high in pairwise(ordered))])


def _fine(strength: float, strengths: Sequence[float]) -> list[float]:
    """Seven strengths around one of a sweep, in eighths of the sweep's smallest step."""
    ordered = sorted({0.0, *strengths})
    step = min((high - low for low, high in pairwise(ordered)), default=0.0) / 8
    if not step:  # nothing but zero was asked for
        return [strength]
    return [strength + step * number for number in range(-3, 4)]


def _controls(
    config: DemoConfig, trained: Trained, trial: Trial, chosen: Candidate, direction: Float[Tensor, " d_model"]
) -> tuple[list[Control], dict[str, float]]:
    """Eight unrelated latents, first the one that moves refusal least, and the share refused without steering.

    The pool is measured on half of the prompts, the eight best of it on all.
    """
    pool = unrelated_latents(trial.sae, trained.firing, chosen.latent, trained.active, direction, config.control_pool)
    first, _ = _ranked_controls(_on_half(trial), pool, chosen.strength)
    best = {one.latent for one in first[:CONTROLS]}
    return _ranked_controls(trial, [one for one in pool if one.latent in best], chosen.strength)


def _ranked_controls(
    trial: Trial, latents: Sequence[ActiveLatent], value: float
) -> tuple[list[Control], dict[str, float]]:
    plain = _refused_plain(trial)
    return rank_controls(measure_candidates(trial, latents, value), plain), plain


def _on_half(trial: Trial) -> Trial:
    """The same with half of each set's prompts."""
    return replace(trial, unsafe=_half_of_each_set(trial.unsafe), safe=_half_of_each_set(trial.safe))


def _half_of_each_set(samples: Sequence[Sample]) -> list[Sample]:
    return [sample for one in by_set(samples).values() for sample in one[: (len(one) + 1) // 2]]


def _refused_plain(trial: Trial) -> dict[str, float]:
    """Share refused without steering, by set of prompts."""
    results = {
        name: evaluate(trial.lm, samples, trial.max_new_tokens) for name, samples in by_set(trial.samples).items()
    }
    return {name: rate(one).rate or 0.0 for name, one in results.items()}
