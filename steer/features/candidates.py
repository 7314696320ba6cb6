"""What clamping a latent does to refusals, measured on development prompts (O'Brien et al., arXiv 2411.11296).

Each candidate is clamped during generation and the refusals that result are counted; the best are compared at several
strengths, and the strength of the very best is settled in fine steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from steer.features.archetype import ActiveLatent
from steer.features.replies import refuses
from steer.features.trial import Arm, Trial, replies_under

ENOUGH = 0.9  # share of every unsafe set refused from which on a candidate counts as carrying refusal
SETTLED = 0.95  # the same for the strength that a latent is settled on: other prompts will be refused less


@dataclass(frozen=True)
class Candidate:
    """A latent that fires while the model refuses, and what clamping it does on development prompts."""

    latent: int
    tokens_active: int
    max_activation: float
    strength: float
    """The value it was clamped to, in raw units."""
    refusal_dev: float
    """Share of the unsafe development prompts refused while the latent is clamped."""
    weakest_dev: float
    """The same share of that unsafe set of which fewest are refused."""
    safe_refusal_dev: float
    """The same share of the safe ones."""
    by_set: Mapping[str, float]
    """The same share of the prompts of each set."""
    n_unsafe: int
    """Unsafe prompts it was measured on."""
    n_safe: int
    """Safe prompts it was measured on."""
    finalist: bool = False
    """Whether ``strength`` is the best of several on these same prompts, which flatters the shares."""


Strength = float | Mapping[int, float]
"""What latents are clamped to, in raw units: one value for all, or one for each."""


def measure_candidates(trial: Trial, active: Sequence[ActiveLatent], value: Strength) -> list[Candidate]:
    """Clamp each latent to ``value`` (raw units) and count refusals; best candidate first, by ``rank``.

    A broken reply is no refusal.
    """
    arms = [Arm(one.latent, _value(value, one.latent)) for one in active]
    samples = trial.samples
    jobs = list(product(arms, range(len(samples))))
    refused = replies_under(trial, samples, jobs, refuses)
    rows = [refused[start : start + len(samples)] for start in range(0, len(refused), len(samples))]
    found = [_candidate(trial, one, arm.strength, row) for one, arm, row in zip(active, arms, rows, strict=True)]
    return sorted(found, key=rank)


def _value(value: Strength, latent: int) -> float:
    return value[latent] if isinstance(value, Mapping) else value


def _candidate(trial: Trial, one: ActiveLatent, value: float, refused: Sequence[bool]) -> Candidate:
    """What was measured of one latent, counted."""

    def share(found: Sequence[bool]) -> float:
        return sum(found) / len(found)

    samples, n_unsafe = trial.samples, len(trial.unsafe)
    names = sorted({sample.set for sample in samples})
    by_set = {
        name: share([was for sample, was in zip(samples, refused, strict=True) if sample.set == name]) for name in names
    }
    return Candidate(
        latent=one.latent,
        tokens_active=one.tokens_active,
        max_activation=one.max_activation,
        strength=value,
        refusal_dev=share(refused[:n_unsafe]),
        weakest_dev=min(by_set[sample.set] for sample in trial.unsafe),
        safe_refusal_dev=share(refused[n_unsafe:]),
        by_set=by_set,
        n_unsafe=n_unsafe,
        n_safe=len(trial.safe),
    )


def rank(candidate: Candidate) -> tuple[bool, float, float, float, int]:
    """Sorting key, best first: of candidates that refuse ``ENOUGH`` of every unsafe set, the one that refuses fewest
    safe prompts; of others, the one that refuses most unsafe ones.

    The paper ranks by the unsafe share alone, which cannot tell candidates apart once several refuse everything.
    """
    unsafe, safe = -candidate.refusal_dev, candidate.safe_refusal_dev
    if candidate.weakest_dev >= ENOUGH:
        return False, safe, unsafe, candidate.strength, candidate.latent
    return True, unsafe, safe, candidate.strength, candidate.latent


def best_strengths(trial: Trial, candidates: Sequence[Candidate], values: Sequence[Strength]) -> list[Candidate]:
    """The finalists: each candidate at the best of several strengths (raw units); best candidate first.

    What makes the effect of one latent plain breaks the replies of another, so each is compared at its own strength.
    The best of several on the same prompts looks better than it will on other prompts.
    """
    active = [_active(one) for one in candidates]
    found: dict[int, Candidate] = {}
    for value in values:
        for one in measure_candidates(trial, active, value):
            found[one.latent] = min(found.get(one.latent, one), one, key=rank)
    return sorted((replace(one, finalist=True) for one in found.values()), key=rank)


def settle_strength(trial: Trial, candidate: Candidate, values: Sequence[float]) -> Candidate:
    """One candidate at the best of several strengths (raw units).

    That is, of those at which ``SETTLED`` of every unsafe set is refused, the one that refuses fewest safe prompts;
    where there is none, the one at which most is refused of the unsafe set that is refused less. Useful strengths can
    be a narrow range, between too weak and broken replies, so steps must be fine and prompts many.
    """
    tried = [measure_candidates(trial, [_active(candidate)], value)[0] for value in values]
    return replace(max(tried, key=settled_key), finalist=True)


def settled_key(candidate: Candidate) -> tuple[float, float, float]:
    """Sorting key, best last, of candidates that were measured on many prompts; see ``settle_strength``."""
    return min(candidate.weakest_dev, SETTLED), -candidate.safe_refusal_dev, -candidate.strength


def _active(candidate: Candidate) -> ActiveLatent:
    return ActiveLatent(candidate.latent, candidate.tokens_active, candidate.max_activation)
