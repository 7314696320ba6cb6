"""What a sweep measures with: the model, the SAE, the arms and tasks of a study, loaded and checked first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saes import SAE
from steer.checkpoints.load import load_sae
from steer.checks import seen_twice
from steer.errors import DataError, PlanError
from steer.models.chat import NO_TEMPLATE_NOTE, instructed
from steer.models.decode import Sampling
from steer.models.load import load_model
from steer.models.model import LanguageModel
from steer.plans.digests import of_sae
from steer.progress import Progress
from steer.responders.prompting import check_instruction
from steer.steering.latents import site_of
from steer.steering.steered import mismatches
from steer.steering.window import Window
from steer.sweeps.arms import UNSTEERED, Arm, DirectionArm, Doing, LatentArm, PlanArm
from steer.sweeps.cells import Cell
from steer.sweeps.config import WITHOUT_VALUE, ArmConfig, StudyConfig
from steer.sweeps.controls import Controls
from steer.sweeps.digests import of_judges, of_model
from steer.sweeps.directions import Directions
from steer.sweeps.responding import SelfContrastiveArm, TunedArm
from steer.sweeps.tasks import Task, load_tasks


@dataclass(frozen=True, eq=False)
class Bench:
    """Everything that cells are measured with. Can be sent to other processes, but for the model."""

    study: StudyConfig
    lm: LanguageModel
    sae: SAE | None
    arms: Mapping[str, Arm]
    """By name: the unsteered model, the study's arms, the controls."""
    tasks: Mapping[str, Task]
    identity: Mapping[str, Any]
    """Digests of the model, its number format, the SAE and the judges."""

    def sampling(self, seed: int) -> Sampling:
        """How replies are generated."""
        return Sampling(self.study.max_new_tokens, self.study.temperature, self.study.top_p, seed)

    def cell(self, arm: Arm, strength: float, task: Task, seed: int, count: int) -> Cell:
        """The cell of the first ``count`` prompts of a task, told apart by everything that decides its result."""
        part = task.first(count)
        generated = any(one.kind != "choice" for one in part.samples)
        decoding: dict[str, Any] = {"max_new_tokens": self.study.max_new_tokens} if generated else {}
        if generated and self.study.temperature:
            decoding |= {"temperature": self.study.temperature, "top_p": self.study.top_p, "seed": seed}
        decides = {
            "model": self.identity["model"],
            "dtype": self.identity["dtype"],
            "steering": arm.settings(strength, self.identity["sae"]),
            "prompts": part.digest,
            "sampling": decoding,
            "judges": self.identity["judges"],
        }
        return Cell(arm.name, strength, task.name, seed, len(part.samples), decides)

    def cells(self, chosen: Mapping[str, Sequence[float]], counts: Mapping[str, int] | None = None) -> list[Cell]:
        """The cells of arms at strengths on all tasks, or on the first so many prompts of each."""
        return [
            self.cell(self.arms[name], strength, task, seed, counts[task.name] if counts else len(task.samples))
            for name, strengths in chosen.items()
            for task in self.tasks.values()
            for seed in self.study.seeds
            for strength in strengths
        ]


def prepare(study: StudyConfig, progress: Progress, load: Callable[[StudyConfig, Progress], LanguageModel]) -> Bench:
    """Load what a study names, make its arms and controls, and see that all fits, before anything is generated.

    Raises:
        DataError: prompts are missing, malformed or too long; arms have one name; a control cannot be.
        PlanError, SiteError: an arm does not fit the model or the SAE.
        ModelError, CheckpointError, SaesError: the model, the SAE or an adapter is not to be had, or does not fit.
        MissingExtra: an arm has an adapter, and peft is not installed.
    """
    tasks = load_tasks(study)
    lm = load(study, progress)
    if not lm.has_chat_template:
        progress.note(NO_TEMPLATE_NOTE)
    sae = None if study.sae is None else load_sae(study.sae, note=progress.note).on(lm.device)
    directions = Directions(study, lm)
    arms = [_arm(study, one, sae, directions, progress) for one in study.arm]
    _check_names(arms)
    for arm in arms:
        _check_fits(arm, study, lm, sae, progress)
    arms = [Arm(UNSTEERED, "unsteered", (0.0,)), *arms, *Controls(study, directions, sae, progress).made(arms)]
    _check_names(arms)
    _check_prompts(lm, study, arms, tasks)
    identity = {
        "model": of_model(lm),
        "dtype": str(next(lm.model.parameters()).dtype),
        "sae": None if sae is None else of_sae(sae),
        "judges": of_judges(),
    }
    return Bench(study, lm, sae, {arm.name: arm for arm in arms}, {task.name: task for task in tasks}, identity)


def load_for(study: StudyConfig, progress: Progress) -> LanguageModel:
    """The model of a study."""
    return load_model(study.model, study.device, study.dtype, note=progress.note)


def _arm(study: StudyConfig, one: ArmConfig, sae: SAE | None, directions: Directions, progress: Progress) -> Arm:
    if one.plan is not None:
        planned = PlanArm.read(one.plan, directions.lm, progress.note)
        if planned.plan.system is not None:
            check_instruction(directions.lm, planned.plan.system, "system")
        name = one.name or planned.plan.label or Path(one.plan).stem
        return Arm(name, "arm", (1.0,), planned, planned.plan.system)
    if one.contrast is not None:
        contrast = SelfContrastiveArm(**one.contrast.model_dump())
        return Arm(one.name or "self-contrastive", "arm", one.strengths or contrast.STRENGTHS, contrast)
    if one.adapter is not None:
        tuned = TunedArm.read(one.adapter, directions.lm, one.another_name)
        return Arm(one.name or f"adapter {tuned.label}", "arm", one.strengths or tuned.STRENGTHS, tuned)
    doing = _doing(study, one, sae, directions)
    strengths = (1.0,) if one.operation in WITHOUT_VALUE else one.strengths or study.strengths
    assert strengths is not None, "checked when the study was made"
    return Arm(one.name or _name(one), "arm", strengths, doing)


def _doing(study: StudyConfig, one: ArmConfig, sae: SAE | None, directions: Directions) -> Doing:
    window = Window(**one.window.model_dump())
    site = str(_site(study, one, sae))
    ones = (1.0,) * len(one.latents)
    weights = tuple(a * b for a, b in zip(one.weights or ones, one.maxima or ones, strict=True))
    operation: Any = one.operation
    if one.direction is None:
        return LatentArm(one.latents, weights, site, operation or "set", one.membership, one.error, window)
    found = directions.get(one.direction, site)
    return DirectionArm(found.vector, found.source, 1.0, site, operation or "add", one.unit, window)


def _site(study: StudyConfig, one: ArmConfig, sae: SAE | None) -> Any:
    given = one.site or study.site
    if sae is not None:
        return site_of(sae, given)
    if given is None:
        raise PlanError("Neither the study nor an arm says where to act. Give site, for example site = '1.resid_post'.")
    return given


def _name(one: ArmConfig) -> str:
    """What an arm does, in short; the usual operation is not said."""
    if one.direction is not None:
        return "direction" if one.operation in (None, "add") else f"direction {one.operation}"
    what = ("latent " if len(one.latents) == 1 else "latents ") + "+".join(map(str, one.latents))
    return what if one.operation in (None, "set") else f"{what} {one.operation}"


def _check_names(arms: Sequence[Arm]) -> None:
    if twice := seen_twice(arm.name for arm in arms):
        raise DataError(f"Two arms have the name {twice[0]!r}. Give each a name of its own.")


def _check_fits(arm: Arm, study: StudyConfig, lm: LanguageModel, sae: SAE | None, progress: Progress) -> None:
    """Raise what using the arm would raise; tell what is odd about it."""
    for strength in arm.strengths:
        arm.responder(lm, strength, study.batch_rows)
        for intervention in arm.at(strength, sae):
            intervention.check(lm.d_model)
            lm.layout.module(intervention.site)
    if isinstance(arm.doing, PlanArm):
        return  # told when it was bound
    for note in mismatches(lm, *arm.at(arm.strengths[0], sae)):
        progress.note(f"{arm.name}: {note}")


def _check_prompts(lm: LanguageModel, study: StudyConfig, arms: Sequence[Arm], tasks: Sequence[Task]) -> None:
    """Raise DataError if a prompt is malformed, refused by the chat template, or too long with its reply."""
    for text, placement in dict.fromkeys(one for arm in arms for one in arm.instructions):
        for task in tasks:
            rows = lm.prompt_ids([instructed(one.messages, text, placement) for one in task.samples])
            longest = max(range(len(rows)), key=lambda place: len(rows[place]))
            if lm.context is not None and len(rows[longest]) + study.max_new_tokens > lm.context:
                count = f"{len(rows[longest])} tokens" + (f" with the instruction {text[:40]!r}" if text else "")
                raise DataError(
                    f"Prompt {task.samples[longest].id!r} of the task {task.name} has {count}, "
                    f"which with max_new_tokens = {study.max_new_tokens} exceed the model's context of {lm.context}."
                )
