"""The arms of a study as data: what is done at a strength, and what it is told apart by."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saes import SAE
from steer.errors import DataError
from steer.models.chat import Conversation, Message, Placement, instructed
from steer.models.classifier import TextClassifier
from steer.models.model import LanguageModel
from steer.plans.bind import Bound
from steer.plans.digests import of_classifier, of_sae
from steer.plans.files import read_plan
from steer.plans.plan import SteeringPlan
from steer.responders.responder import Responder
from steer.steering.direction_edits import DirectionEdit, DirectionOperation, Unit
from steer.steering.intervention import Intervention
from steer.steering.latents import ErrorTerm, LatentEdit, Membership
from steer.steering.operations import Operation
from steer.steering.steered import gate_in
from steer.steering.text_gate import TextGate
from steer.steering.window import EVERYWHERE, Window
from steer.sweeps.config import WITHOUT_VALUE
from steer.sweeps.responding import Responding, SelfContrastiveArm, TunedArm

Role = Literal["unsteered", "arm", "control"]
UNSTEERED = "unsteered"


@dataclass(frozen=True)
class LatentArm:
    """An operation on latents of the study's SAE. At strength s latent i has the value ``s * weights[i]``."""

    latents: tuple[int, ...]
    weights: tuple[float, ...]
    """By which the strength is multiplied, to raw units."""
    site: str
    operation: Operation = "set"
    membership: Membership = "allow"
    error: ErrorTerm = "keep"
    window: Window = EVERYWHERE

    def at(self, strength: float, sae: SAE | None) -> tuple[Intervention, ...]:
        """The interventions at a strength."""
        assert sae is not None, "a study with latents has an SAE"
        values = {one: strength * weight for one, weight in zip(self.latents, self.weights, strict=True)}
        edit = LatentEdit(
            sae, values, self.site, self.operation, self.window, membership=self.membership, error=self.error
        )
        return (edit,)

    def settings(self, sae_digest: str | None) -> dict[str, Any]:
        """Everything but the strength that decides what is done, as JSON data."""
        return {"kind": "latents", "sae": sae_digest, **_fields(self)}


@dataclass(frozen=True, eq=False)
class DirectionArm:
    """An operation along a direction of the residual stream. The strength is multiplied by ``weight``."""

    direction: Float[Tensor, " d_model"]
    source: Mapping[str, Any]
    """What tells it apart: the digest of a file's vector, or the prompts that it was taken from."""
    weight: float
    site: str
    operation: DirectionOperation = "add"
    unit: Unit = "raw"
    window: Window = EVERYWHERE

    def at(self, strength: float, sae: SAE | None) -> tuple[Intervention, ...]:
        """The interventions at a strength."""
        edit = DirectionEdit(self.site, self.direction, strength * self.weight, self.operation, self.unit, self.window)
        return (edit,)

    def settings(self, sae_digest: str | None) -> dict[str, Any]:
        """Everything but the strength that decides what is done, as JSON data."""
        return {"kind": "direction", **_fields(self)}


@dataclass(frozen=True, eq=False)
class PlanArm:
    """What a plan does. It has no strengths."""

    plan: SteeringPlan
    saes: Mapping[str, str]
    """Digests of the SAEs that it uses, by its names for them."""
    classifiers: tuple[str, ...] = ()
    """Digests of the models that its gates ask about texts."""
    bound: Bound | None = None
    """It, made ready for a model."""

    @classmethod
    def read(cls, path: str, lm: LanguageModel, note: Callable[[str], None]) -> "PlanArm":
        """The plan of a file, made ready for a model.

        Raises:
            PlanError: it cannot be read, or is for another model or SAE; see ``SteeringPlan.bind``.
            CheckpointError, SaesError: an SAE of it is not to be had.
        """
        plan = read_plan(Path(path).absolute())
        if plan.sampling is not None:
            note(f"{path}: how replies are generated is the study's to say, not the plan's.")
        return cls._of(plan, lm, note)

    @classmethod
    def _of(cls, plan: SteeringPlan, lm: LanguageModel, note: Callable[[str], None]) -> "PlanArm":
        saes = {name: spec.load(plan.folder, note) for name, spec in plan.saes.items()}
        bound = plan.bind(lm, note, saes)
        return cls(plan, {name: of_sae(sae) for name, sae in saes.items()}, _classifiers(bound), bound)

    def at(self, strength: float, sae: SAE | None) -> tuple[Intervention, ...]:
        """The interventions."""
        assert self.bound is not None, "it is bound before it is used"
        return self.bound.interventions

    def settings(self, sae_digest: str | None) -> dict[str, Any]:
        """Everything that decides what is done, as JSON data."""
        asked = {"classifiers": list(self.classifiers)} if self.classifiers else {}
        return {"kind": "plan", "plan": self.plan.digest, "saes": dict(self.saes), **asked}

    def ready(self, lm: LanguageModel | None) -> "PlanArm":
        """The same, the plan bound to another model, or to none.

        Raises:
            DataError: an SAE or a classifier is another than before.
        """
        if lm is None:
            return replace(self, bound=None)
        found = self._of(self.plan, lm, lambda _: None)
        if (found.saes, found.classifiers) != (self.saes, self.classifiers):
            raise DataError(
                f"An SAE or a classifier of the plan {self.plan.label or self.plan.digest[:16]} is not the one that "
                "the study was begun with. Have the same files on every machine."
            )
        return found


def _classifiers(bound: Bound) -> tuple[str, ...]:
    gates = [gated.gate for one in bound.interventions if (gated := gate_in(one)) is not None]
    asked = [leaf.classifier for gate in gates for leaf in gate.leaves if isinstance(leaf, TextGate)]
    return tuple(of_classifier(one) for one in asked if isinstance(one, TextClassifier))


Doing = LatentArm | DirectionArm | PlanArm


@dataclass(frozen=True, eq=False)
class Arm:
    """A way of answering, steered, in a way of its own, or as the model does, at several strengths."""

    name: str
    role: Role
    strengths: tuple[float, ...]
    doing: Doing | Responding | None = None
    """What is done to the activations, or what answers in the model's place; None: the model as it is."""
    system: str | None = None
    """A system prompt before every conversation."""
    beside: str | None = None
    """Of a control: the arm whose strengths it has."""
    note: str = ""
    """How it was chosen, where the study does not say."""

    def at(self, strength: float, sae: SAE | None) -> tuple[Intervention, ...]:
        """The interventions at a strength."""
        return self.doing.at(strength, sae) if isinstance(self.doing, Doing) else ()

    def responder(self, lm: LanguageModel, strength: float, rows: int) -> Responder | None:
        """What answers at a strength, ``rows`` at a time; None: the model, under the interventions of ``at``."""
        return self.doing.responder(lm, strength, rows) if isinstance(self.doing, Responding) else None

    def settings(self, strength: float, sae_digest: str | None) -> dict[str, Any]:
        """Everything that decides what is done at a strength, as JSON data."""
        if self.doing is None:
            return {"system": self.system, "steering": None}
        return {"system": self.system, "steering": self.doing.settings(sae_digest), "strength": strength}

    @property
    def graded(self) -> bool:
        """Whether its strengths are more than a name."""
        steering = isinstance(self.doing, LatentArm | DirectionArm) and self.doing.operation not in WITHOUT_VALUE
        return steering or isinstance(self.doing, Responding)

    @property
    def instructions(self) -> tuple[tuple[str, Placement], ...]:
        """What is said before a prompt, and where, in each context that is read of it; an empty text: nothing."""
        if isinstance(self.doing, SelfContrastiveArm):
            return (self.doing.safety, self.doing.placement), (self.doing.plain, self.doing.placement)
        return ((self.system or "", "system"),)

    def conversation(self, messages: Conversation) -> list[Message]:
        """A prompt with the instruction before it; what a conversation says in a system message follows it."""
        return instructed(messages, *self.instructions[0])

    def bound(self, lm: LanguageModel | None) -> "Arm":
        """The same made ready for another model, or for none, so that it can be sent to where one is.

        Raises:
            DataError: what it needs is not, on this machine, what the study was begun with.
        """
        return replace(self, doing=self.doing.ready(lm)) if isinstance(self.doing, PlanArm | TunedArm) else self


def _fields(one: LatentArm | DirectionArm) -> dict[str, Any]:
    """The fields as JSON data."""

    def plain(value: Any) -> Any:
        if isinstance(value, Window):
            return {**asdict(value), "exclude_ids": sorted(value.exclude_ids)}
        return list(value) if isinstance(value, tuple) else value

    return {name: plain(value) for name, value in vars(one).items() if not isinstance(value, torch.Tensor)}
