"""The main job: from a chat model to its refusal trade-off curve.

``run_demo`` reads downwards: load and check, train an SAE, find the refusal latent, choose a control and a dense
direction, evaluate every strength of every arm on the test prompts, write results after each step, draw the report.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import saes
from saes import SAE
from steer.activations.splice import splice_loss
from steer.evals.runner import Result, evaluate
from steer.features.candidates import Candidate
from steer.files import check_output, claimed, clear_output
from steer.forks import forked
from steer.models.chat import NO_TEMPLATE_NOTE
from steer.models.load import load_model
from steer.models.site import Site
from steer.progress import Progress, Silent
from steer.steering.direction_edits import AddDirection
from steer.steering.intervention import Intervention
from steer.steering.latents import Clamp
from steer.steering.steered import steered
from steer.studies.config import DemoConfig
from steer.studies.prepare import Prepared, prepare
from steer.studies.record import OWNED, RunRecord
from steer.studies.report import write_report
from steer.studies.search import Found, find
from steer.studies.trained import Trained, train_and_measure
from steer.threads import torch_threads


@dataclass(frozen=True)
class Condition:
    """One arm at one strength: what the model is evaluated under."""

    arm: str
    strength: float
    interventions: tuple[Intervention, ...]


def run_demo(config: DemoConfig, out: Path, overwrite: bool = False, progress: Progress | None = None) -> Path:
    """Do the main job and write everything to ``out``; returns the path of the report.

    ``out`` is not touched until there is a trained SAE to keep, so a mistake in the settings or a model that cannot be
    used leaves nothing behind. From then on results are written after each step, so a run that is stopped leaves its
    finished part readable.

    Raises:
        SteerError, SaesError: see ``check_output``, ``load_model``, ``Site``, ``refuse_archetype``, ``fit``.
    """
    check_output(out, overwrite, OWNED)
    job = RunRecord(out, progress or Silent())
    with job.stage("load"):
        lm = load_model(config.model, config.device, config.dtype, note=job.progress.note)
    if not lm.has_chat_template:
        job.progress.note(NO_TEMPLATE_NOTE)
    with torch_threads(lm.model, config.threads):
        with job.stage("prepare"):
            ready = prepare(config, lm)
        trained = train_and_measure(config, ready, job)
        check_output(out, overwrite, OWNED)  # again: another run may have written there meanwhile
        with claimed(out):
            clear_output(out, OWNED)
            return _study(config, ready, trained, job)


def _study(config: DemoConfig, ready: Prepared, trained: Sequence[Trained], job: RunRecord) -> Path:
    job.start({**config.model_dump(mode="json"), "processes": ready.processes}, ready.lm, ready.test)
    saes.save(trained[0].sae, job.out / "sae")  # until it is known which one is studied
    with job.stage("find the refusal latent"):
        found = _find(config, ready, trained, job)
    with job.stage("measure the loss"):
        loss = splice_loss(ready.lm, found.trained.sae, ready.site, ready.texts[: config.held_out_texts])
    one = found.trained
    job.sae(one.sae, one.seed, one.records, one.quality, loss)
    job.compared([each.seed for each in trained], [each.quality.fvu for each in trained], found.best)
    _evaluate(config, ready, found, job)
    with job.stage("report"):
        job.finish()
        page = write_report(job.out, ready.processes)
    job.save()
    return page


def _find(config: DemoConfig, ready: Prepared, trained: Sequence[Trained], job: RunRecord) -> Found:
    note = f"{sum(len(one.active) for one in trained)} candidates"

    def keep(one: Trained, candidates: list[Candidate]) -> None:
        saes.save(one.sae, job.out / "sae")
        job.candidates(ready.refusal.reply, candidates)

    found = find(config, ready, trained, keep, on_done=lambda replies: job.progress.advance(replies, note))
    job.controls(found.controls, found.plain)
    return found


def _evaluate(config: DemoConfig, ready: Prepared, found: Found, job: RunRecord) -> None:
    conditions = _conditions(config, found.trained.sae, ready.site, found)

    def under(condition: Condition) -> list[Result]:
        with steered(ready.lm, *condition.interventions):
            return evaluate(ready.lm, ready.test, config.max_new_tokens)

    with job.stage("evaluate", len(conditions) * len(ready.test)):
        for condition, results in zip(conditions, forked(under, conditions, ready.processes), strict=True):
            job.progress.advance(len(ready.test))
            job.point(condition.arm, condition.strength, results)


def _conditions(config: DemoConfig, sae: SAE, site: Site, found: Found) -> list[Condition]:
    """The unsteered model, then each arm at each strength of the sweep and at the one settled on."""
    conditions = [Condition("none", 0.0, ())]
    strengths = sorted({*config.strengths, found.candidates[0].strength})
    for arm, latent in (("sae", found.chosen), ("control", found.control)):
        conditions += [Condition(arm, value, (Clamp(sae, {latent: value}, site),)) for value in strengths]
    nonzero = [value for value in strengths if value]  # adding nothing is the unsteered model
    conditions += [Condition("direction", value, (AddDirection(site, found.direction, value),)) for value in nonzero]
    return conditions
