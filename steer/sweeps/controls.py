"""What stands beside the arms of a study: what as much force does that has nothing to do with the arm.

An unrelated latent shows what a clamp as strong costs by itself; the dense direction what the SAE adds to the simplest
way of steering; the system prompt what could have been had without touching the model.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch

import saes
from saes import SAE, Firing
from steer.activations.stream import activation_rows
from steer.errors import DataError, PlanError
from steer.progress import Progress
from steer.responders.prompting import check_instruction
from steer.steering.operations import Operation
from steer.sweeps.arms import Arm, DirectionArm, LatentArm
from steer.sweeps.config import DIFFERENCE, Control, StudyConfig
from steer.sweeps.directions import Directions

_FORCE: tuple[Operation, ...] = ("set", "set_if_active", "at_least", "add")  # whose values say how far x is moved
DIGITS = 6  # of the factors that match norms: further ones depend on the machine


@dataclass
class Controls:
    """Makes the controls of a study."""

    study: StudyConfig
    directions: Directions
    sae: SAE | None
    progress: Progress

    def made(self, arms: Sequence[Arm]) -> list[Arm]:
        """The controls that the study asks for.

        Raises:
            DataError: one that was asked for by name cannot be, or there are no prompts to compare.
        """
        if {"latent", "direction"} & {*self.study.wanted_controls}:
            self.directions.prompts  # noqa: B018  # raises now if a name is wrong: that is no reason to leave one out
        make = {"latent": self._latents, "direction": self._direction, "system": self._system}
        found: list[Arm] = []
        for name in self.study.wanted_controls:
            try:
                found += make[name](arms)
            except DataError as error:
                self._leave_out(name, error)
        return found

    def _leave_out(self, name: Control, error: DataError) -> None:
        if self.study.controls is not True:
            raise DataError(f"The control {name!r} cannot be: {error}") from error
        self.progress.note(f"the control {name!r} is left out: {error}")

    def _latents(self, arms: Sequence[Arm]) -> list[Arm]:
        """An unrelated latent for each latent of each arm, at values that move the activations as far."""
        steering = [(arm, arm.doing) for arm in arms if isinstance(arm.doing, LatentArm)]
        if not steering:
            return self._nothing("it stands beside latents, and no arm has any")
        assert self.sae is not None, "arms with latents need an SAE"
        sites = {doing.site for _, doing in steering}
        firing = {site: self._firing(self.sae, site) for site in sites}
        taken = {latent for _, doing in steering for latent in doing.latents}
        return [self._beside(self.sae, arm, doing, firing[doing.site], taken) for arm, doing in steering]

    def _beside(self, sae: SAE, arm: Arm, doing: LatentArm, firing: Firing, taken: set[int]) -> Arm:
        """The control of one arm. ``taken``: latents that it must not have; its own are added."""
        norms = sae.W_dec.norm(dim=-1)
        latents, weights = [], []
        for latent, weight in zip(doing.latents, doing.weights, strict=True):
            found = unrelated_latent(sae, firing, latent, taken)
            as_far = (norms[latent] / norms[found]).item() if doing.operation in _FORCE else 1.0
            taken.add(found)
            latents.append(found)
            weights.append(rounded(weight * as_far))
        return Arm(
            f"unrelated to {arm.name}",
            "control",
            arm.strengths,
            replace(doing, latents=tuple(latents), weights=tuple(weights)),
            beside=arm.name,
            note=f"latents {latents}: as frequent, nearly orthogonal, decoder norms matched by {weights}",
        )

    def _direction(self, arms: Sequence[Arm]) -> list[Arm]:
        """The difference in means, added as far as the first arm with latents moves the activations."""
        if any("difference" in arm.doing.source for arm in arms if isinstance(arm.doing, DirectionArm)):
            return []  # it is an arm itself
        for arm in arms:
            doing = arm.doing
            if not isinstance(doing, LatentArm) or doing.operation not in _FORCE:
                continue
            assert self.sae is not None, "arms with latents need an SAE"
            rows = self.sae.W_dec[list(doing.latents)]
            moved = (rows * rows.new_tensor(doing.weights).unsqueeze(-1)).sum(0).norm().item()
            found = self.directions.get(DIFFERENCE, doing.site)
            direction = DirectionArm(found.vector, found.source, rounded(moved), doing.site, window=doing.window)
            note = f"difference in means, added at a norm of {rounded(moved):g} times the strength, as {arm.name} does"
            return [Arm("dense direction", "control", arm.strengths, direction, beside=arm.name, note=note)]
        return self._nothing("it is added as far as set latents move the activations, and no arm sets any")

    def _system(self, arms: Sequence[Arm]) -> list[Arm]:
        arm = Arm("system prompt", "control", (1.0,), system=self.study.system_prompt)
        try:
            check_instruction(self.directions.lm, self.study.system_prompt, "system")
        except PlanError as error:
            raise DataError(str(error)) from error
        return [arm]

    def _nothing(self, why: str) -> list[Arm]:
        """No arm, which is said only where this control was asked for by name."""
        if self.study.controls is not True:
            raise DataError(f"{why}.")
        return []

    def _firing(self, sae: SAE, site: str) -> Firing:
        """How often latents fire on the prompts whose means are compared: the same whatever the tasks are."""
        lm = self.directions.lm
        harmful, harmless = self.directions.prompts
        texts = lm.prompt_ids([one.messages for one in (*harmful, *harmless)])
        rows = (rows.float() for rows in activation_rows(lm, site, texts))
        return saes.measure(sae.on(lm.device), rows)[1]


def unrelated_latent(sae: SAE, firing: Firing, latent: int, taken: Collection[int]) -> int:
    """Of the living latents, the half whose decoder rows are most nearly orthogonal to the one's, and of these the one
    that fires about as often. ``taken`` ones are passed over.

    Raises:
        DataError: no latent is left.
    """
    cosine = torch.cosine_similarity(sae.W_dec, sae.W_dec[latent], dim=-1).abs().cpu()
    density = firing.density.cpu()
    free = [one for one in (density > 0).nonzero().flatten().tolist() if one not in {latent, *taken}]
    if not free:
        raise DataError("no other latent fires on the prompts of harmful and harmless. Give more of them.")
    orthogonal = sorted(free, key=lambda one: (cosine[one].item(), one))[: (len(free) + 1) // 2]
    return min(orthogonal, key=lambda one: (abs((density[one] - density[latent]).item()), one))


def rounded(value: float) -> float:
    """To so many digits that the value does not depend on the machine."""
    return float(f"{value:.{DIGITS}g}")
