"""``paper``: latents active while the model refuses one archetypal prompt, clamped over a grid (arXiv 2411.11296).

Section 4 there: candidates are the latents active on at least two tokens; each is clamped to one value, refusals of
unsafe prompts are counted, and the latent with most is kept. Here all are clamped to the middle strength, and the best
to every strength.
"""

from steer.errors import DataError
from steer.features.archetype import ActiveLatent, latents_active
from steer.features.candidates import Candidate, best_strengths, measure_candidates
from steer.features.search import Found, Search


def find(search: Search) -> list[Found]:
    """Latents by the share of unsafe prompts that are refused while each is clamped at its best strength.

    Raises:
        DataError: the model does not refuse the archetype, or no latent is active on two tokens of that.
    """
    active = active_in_refusal(search)
    raw = [search.raw(value) for value in sorted(search.strengths)]
    clamps = len(active) + min(len(active), search.limit) * len(raw)
    with search.progress.stage("paper: clamped replies", clamps * len(search.trial.samples)):
        first = measure_candidates(search.trial, active, raw[len(raw) // 2])
        first = sorted(first, key=_by_unsafe)[: search.limit]
        measured = best_strengths(search.trial, first, raw)
    return [Found(one.latent, one.refusal_dev, _why(one)) for one in sorted(measured, key=_by_unsafe)]


def active_in_refusal(search: Search) -> list[ActiveLatent]:
    """The latents active on at least two tokens while the model refuses the archetype.

    Raises:
        DataError: it does not refuse, or there is none.
    """
    active = latents_active(search.lm, search.sae, search.site, search.refusal)
    if not active:
        raise DataError("No latent is active on two tokens of the refusal: train the SAE on more text, or raise k.")
    return active


def _by_unsafe(one: Candidate) -> tuple[float, float, int]:
    """Most refusals of unsafe prompts first, as published; of equally many, fewest of safe ones."""
    return -one.refusal_dev, one.safe_refusal_dev, one.latent


def _why(one: Candidate) -> str:
    return (
        f"active on {one.tokens_active} tokens of the refusal; clamped to {one.strength:.3g} it refuses "
        f"{one.refusal_dev:.0%} of unsafe and {one.safe_refusal_dev:.0%} of safe prompts"
    )
