"""Control latents: what clamping a latent does that has nothing to do with refusal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from saes import SAE, Firing
from steer.errors import DataError
from steer.features.archetype import ActiveLatent
from steer.features.candidates import Candidate


@dataclass(frozen=True)
class Control:
    """A latent that has nothing to do with refusal, and what clamping it does on development prompts."""

    latent: int
    strength: float
    """The value it was clamped to, in raw units."""
    by_set: Mapping[str, float]
    """Share of the prompts of each set refused while it is clamped."""
    moved: float
    """How far that share is from the one without clamping, on the set where it is farthest."""


def silent_latents(firing: Firing, active: Sequence[ActiveLatent]) -> list[int]:
    """Living latents that the refusal leaves silent.

    Raises:
        DataError: there is none.
    """
    taken = {one.latent for one in active}
    free = [i for i in (firing.density > 0).nonzero().flatten().tolist() if i not in taken]
    if not free:
        raise DataError("No latent is left for a control: all living latents fire in the refusal. Widen the SAE.")
    return free


def unrelated_latents(
    sae: SAE,
    firing: Firing,
    chosen: int,
    active: Sequence[ActiveLatent],
    direction: Float[Tensor, " d_model"],
    count: int = 8,
) -> list[ActiveLatent]:
    """Latents to compare the chosen one with: as frequent, silent in the refusal, and orthogonal to its direction.

    Of the living latents that the refusal leaves silent, take the half whose decoder rows are most nearly orthogonal
    to the refusal direction, and of these the ``count`` whose firing density is nearest to the chosen latent's.

    Raises:
        DataError: no latent is left.
    """
    cosine = (sae.W_dec @ direction.to(sae.W_dec)).abs().cpu()
    free = [i for i in silent_latents(firing, active) if i != chosen]
    orthogonal = sorted(free, key=lambda i: (cosine[i].item(), i))[: max(1, len(free) // 2)]
    nearest = sorted(orthogonal, key=lambda i: (abs((firing.density[i] - firing.density[chosen]).item()), i))
    return [ActiveLatent(i, 0, firing.maximum[i].item()) for i in nearest[:count]]


def rank_controls(measured: Sequence[Candidate], plain: Mapping[str, float]) -> list[Control]:
    """Unrelated latents, first the one whose clamping moves refusal least on the set where it moves it most.

    ``plain`` is the share refused without clamping, by set of development prompts. The first is the control. It is
    picked for moving refusal little; what an unrelated latent usually does is told by all of them.
    """

    def control(one: Candidate) -> Control:
        moved = max(abs(one.by_set[name] - share) for name, share in plain.items())
        return Control(one.latent, one.strength, one.by_set, moved)

    return sorted(map(control, measured), key=lambda one: (one.moved, one.latent))
