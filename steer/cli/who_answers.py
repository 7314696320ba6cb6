"""Options that say who answers, with a model as it is or as it is steered, and what they make of it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli.interrupts import importing
from steer.cli.notes import say
from steer.cli.options import parse_clamp
from steer.cli.plan.options import opened

if TYPE_CHECKING:
    from steer.models.model import LanguageModel
    from steer.plans.bind import Bound
    from steer.plans.plan import SteeringPlan
    from steer.responders.responder import Responder

WHO = "Who answers"

Plan = Annotated[
    str | None,
    typer.Option(
        "--plan",
        help="A steering plan: .json, .toml, or hub:owner/name/plan.toml.",
        rich_help_panel=WHO,
        show_default=False,
    ),
]
Sae = Annotated[
    str | None,
    typer.Option(
        "--sae",
        help="An SAE, with --clamp: a folder such as demo/sae, hub:owner/name/folder, or saelens:release/id.",
        rich_help_panel=WHO,
        show_default=False,
    ),
]
Clamps = Annotated[
    list[str] | None,
    typer.Option(
        "--clamp",
        help="Latent and value to set it to, such as 262=10; may be repeated.",
        metavar="LATENT=VALUE",
        rich_help_panel=WHO,
    ),
]
Layer = Annotated[
    int | None,
    typer.Option(
        "--layer",
        help="Layer whose output the SAE reads and edits, from 0; else that of its training.",
        rich_help_panel=WHO,
        show_default=False,
    ),
]
System = Annotated[
    str | None, typer.Option("--system", help="A system prompt.", rich_help_panel=WHO, show_default=False)
]
Adapter = Annotated[
    str | None,
    typer.Option(
        "--adapter", help="A LoRA adapter, or a run of `steer tune`.", rich_help_panel=WHO, show_default=False
    ),
]
SelfContrastive = Annotated[
    float | None,
    typer.Option(
        "--self-contrastive",
        help="Self-contrastive decoding.",
        metavar="ALPHA",
        rich_help_panel=WHO,
        show_default=False,
    ),
]


@dataclass(frozen=True)
class WhoAnswers:
    """What the options say of who answers; nothing that they name is read yet.

    Raises:
        typer.BadParameter: a clamp has another form, a latent stands twice, or options are given that do not go
            together.
    """

    plan: Plan = None
    sae: Sae = None
    clamp: Clamps = None
    layer: Layer = None
    system: System = None
    adapter: Adapter = None
    self_contrastive: SelfContrastive = None
    """Its alpha, without unit."""
    values: dict[int, float] = field(init=False)
    """Of the clamped latents."""

    def __post_init__(self) -> None:
        clamps = [parse_clamp(text) for text in self.clamp or ()]
        if bool(clamps) != (self.sae is not None):
            raise typer.BadParameter("--sae and --clamp belong together: give both or neither")
        if self.layer is not None and self.sae is None:
            raise typer.BadParameter("--layer says where the SAE acts: give it with --sae and --clamp, or leave it out")
        if len({latent for latent, _ in clamps}) < len(clamps):
            raise typer.BadParameter("a latent is clamped twice")
        if self.system is not None and self.self_contrastive is not None:
            raise typer.BadParameter("--system and --self-contrastive both put a text before the prompt: give one")
        if self.plan is not None and self.sae is not None:
            raise typer.BadParameter(
                "--plan says what is done: leave --sae and --clamp out, or write them into the plan"
            )
        object.__setattr__(self, "values", dict(clamps))

    def opened_plan(self) -> "SteeringPlan | None":
        """The plan, from its file or from the hub; errors as ``opened``."""
        return None if self.plan is None else opened(self.plan)

    def clamped(self, lm: "LanguageModel") -> "Bound":
        """What --sae, --clamp and --layer ask for, as a plan would; nothing where they are not given.

        Raises:
            SaesError, SteerError: the SAE is not to be had, or does not fit.
        """
        with importing():
            from steer.checkpoints.load import load_sae
            from steer.models.site import Site
            from steer.plans.bind import Bound
            from steer.steering.latents import Clamp
            from steer.steering.steered import mismatches
        where = None if self.layer is None else Site(self.layer)
        interventions = [] if self.sae is None else [Clamp(load_sae(self.sae, note=say), self.values, where)]
        for note in mismatches(lm, *interventions):
            say(note)
        return Bound(tuple(interventions), None, None, "")

    def responder(self, lm: "LanguageModel", plan: "SteeringPlan | None", batch_size: int) -> "Responder":
        """Whoever answers: a prompt first, then the adapter, then what steers.

        Args:
            lm: the model.
            plan: what ``opened_plan`` gave, before the model was loaded: that may take long.
            batch_size: conversations answered together, at most.

        Raises:
            SaesError, SteerError: something that is named is not to be had, or does not fit the model.
        """
        with importing():
            from steer.responders.prompted import SystemPrompt, Unsteered
            from steer.responders.self_contrastive import SelfContrastive
            from steer.responders.steered import Steered
            from steer.responders.tuned import Tuned
        found: Responder = Unsteered(lm, batch_size=batch_size)
        if self.system is not None:
            found = SystemPrompt(lm, self.system, batch_size=batch_size)
        if (alpha := self.self_contrastive) is not None:
            found = SelfContrastive(lm, alpha, name=f"self-contrastive {alpha:g}", batch_size=batch_size)
        if self.adapter is not None:
            found = Tuned(found, self.adapter, name=_and(found, f"adapter {self.adapter}"))
        if plan is not None:
            bound = plan.bind(lm, say)
            told = _and(found, f"plan {self.plan}")
            found = Steered(found, bound.interventions, system=bound.system, name=told, fitted_on=bound.fitted_on)
        if self.sae is not None:
            told = "sae " + " ".join(f"{latent}={value:g}" for latent, value in self.values.items())
            found = Steered(found, self.clamped(lm).interventions, name=_and(found, told))
        return found


def _and(base: "Responder", told: str) -> str:
    """A name for what is done on top of what the base does."""
    return told if base.name == "unsteered" else f"{base.name}, {told}"
