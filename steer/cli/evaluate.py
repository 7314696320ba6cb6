"""``steer eval``: tasks with any responder, kept as they go."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.eval_asked import (
    Attacker,
    Attacks,
    ConceptNames,
    Prompted,
    QuestionCount,
    Rater,
    Repeats,
    Samplings,
    Seed,
    Unsampled,
    attack_options,
    select_options,
)
from steer.cli.generate import read_clamps, say
from steer.cli.interrupts import importing
from steer.cli.judge_options import AnswerTokens, Keep, Name, Question, Raw, Template, Url, Verdicts, judge_given
from steer.cli.options import Device, Dtype, DtypeName, Json, Layer, Threads, asked_threads

if TYPE_CHECKING:
    from steer.models.model import LanguageModel
    from steer.responders.responder import Responder

WHO, ASKED = "Who answers", "What is asked"


def evaluate(
    model: Annotated[str, typer.Argument(help="`embedded`, a folder in transformers format, or a hub id.")],
    task: Annotated[str, typer.Option(help="Tasks, groups of them, or own .jsonl files: xstest,oktest,mine.jsonl.")],
    out: Annotated[Path, typer.Option(help="The run folder. The same command goes on with a run that was stopped.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of public sets, laid out as published.", rich_help_panel=ASKED, show_default=False),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Samples a task, evenly over its groups.", rich_help_panel=ASKED, show_default=False),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Limit of replies; else each task's.", rich_help_panel=ASKED, show_default=False),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Of the embedded model's sets: dev to choose on, test to report.", rich_help_panel=ASKED)
    ] = "test",
    judge: Name = "rules",
    url: Url = None,
    question: Question = "three-class",
    judge_template: Template = None,
    judge_raw: Raw = False,
    verdict: Verdicts = None,
    judge_tokens: AnswerTokens = None,
    judgements: Keep = None,
    attacks: Attacks = None,
    attacker: Attacker = None,
    rater: Rater = None,
    repeats: Repeats = 1,
    concept: ConceptNames = None,
    prompt: Prompted = "zero_shot",
    per_concept: QuestionCount = None,
    every_question: Unsampled = False,
    samplings: Samplings = 0,
    seed: Seed = None,
    plan: Annotated[
        str | None,
        typer.Option(help="A steering plan: .json, .toml, or hub:...", rich_help_panel=WHO, show_default=False),
    ] = None,
    sae: Annotated[
        str | None, typer.Option(help="An SAE, with --clamp.", rich_help_panel=WHO, show_default=False)
    ] = None,
    clamp: Annotated[
        list[str] | None,
        typer.Option(
            help="Latent and value, such as 262=10; may be repeated.", metavar="LATENT=VALUE", rich_help_panel=WHO
        ),
    ] = None,
    layer: Layer = None,
    system: Annotated[
        str | None, typer.Option(help="A system prompt.", rich_help_panel=WHO, show_default=False)
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(help="A LoRA adapter, or a run of `steer tune`.", rich_help_panel=WHO, show_default=False),
    ] = None,
    self_contrastive: Annotated[
        float | None,
        typer.Option(help="Self-contrastive decoding.", metavar="ALPHA", rich_help_panel=WHO, show_default=False),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Samples answered together, at most; halved where memory does not suffice.")
    ] = 256,
    revision: Annotated[
        str | None, typer.Option(help="Commit, branch or tag of a hub's model.", show_default=False)
    ] = None,
    device: Device = "auto",
    dtype: Dtype = DtypeName.auto,
    threads: Threads = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the run in the folder and begin anew.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Show every figure, not the main ones alone.")] = False,
    as_json: Json = False,
) -> None:
    """Evaluate a model, as it is or steered, on tasks; every sample is kept as it is finished.

    Who answers is the model as it is, or under a system prompt or self-contrastive decoding; with an adapter; steered
    by a plan or by clamps; or all of these together.
    """
    given = locals()
    clamps = read_clamps(clamp or [], sae, layer)
    if system is not None and self_contrastive is not None:
        raise typer.BadParameter("--system and --self-contrastive both put a text before the prompt: give one")
    if plan is not None and sae is not None:
        raise typer.BadParameter("--plan says what is done: leave --sae and --clamp out, or write them into the plan")
    if split not in ("dev", "test"):
        raise typer.BadParameter(f"--split is dev or test, got {split!r}")
    select = select_options(concept or [], prompt, per_concept, every_question, seed, samplings)
    with importing():
        from steer.cli.console import Terminal, import_transformers
        from steer.cli.eval_shown import fitted_notes, results_table, unscored_notes
        from steer.evals.run import run_tasks
        from steer.evals.run_folder import check_folder
        from steer.evals.tasks.options import TaskOptions
        from steer.evals.tasks.registry import tasks_of
        from steer.models.load import load_model
        from steer.threads import torch_threads

        import_transformers()
    check_folder(out, overwrite)
    attack = attack_options(attacks, attacker, rater, repeats, seed, device, dtype, offline)
    judged = judge_given({**given, "dtype": DtypeName.auto})  # --dtype is the model's, not the judge's
    options = TaskOptions(judged, data, split, limit, max_new_tokens, offline, select, attack)  # type: ignore[arg-type]  # checked above
    tasks = tasks_of([name.strip() for name in task.split(",") if name.strip()], options)
    progress = Terminal()
    with progress.stage("load"):
        lm = load_model(model, device, dtype.value, revision, offline, note=say)
    responder = _responder(lm, plan, sae, clamps, layer, system, adapter, self_contrastive, batch_size)
    about = {"model": model, "revision": revision, "dtype": dtype.value}
    with torch_threads(lm.model, asked_threads(threads)):
        found = run_tasks(responder, tasks, out, batch_size, progress, about, overwrite)
    for note in (*fitted_notes(found), *unscored_notes(found)):
        say(note)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    from rich.console import Console

    from steer.cli.console import shown

    Console().print(results_table(found, everything))
    typer.echo(f"Results: {shown(out)}")


def _responder(
    lm: "LanguageModel",
    plan: str | None,
    sae: str | None,
    clamps: dict[int, float],
    layer: int | None,
    system: str | None,
    adapter: str | None,
    alpha: float | None,
    batch_size: int,
) -> "Responder":
    """Who answers."""
    from steer.cli.generate import clamped
    from steer.plans.files import read_plan
    from steer.plans.hub import pull_plan
    from steer.responders.prompted import SystemPrompt, Unsteered
    from steer.responders.self_contrastive import SelfContrastive
    from steer.responders.steered import Steered
    from steer.responders.tuned import Tuned

    common: dict[str, Any] = {"batch_size": batch_size}
    found: Responder = Unsteered(lm, **common)
    if system is not None:
        found = SystemPrompt(lm, system, **common)
    if alpha is not None:
        found = SelfContrastive(lm, alpha, name=f"self-contrastive {alpha:g}", **common)
    if adapter is not None:
        found = Tuned(found, adapter, name=_and(found, f"adapter {adapter}"))
    if plan is not None:
        bound = (pull_plan(plan, say) if plan.startswith("hub:") else read_plan(plan)).bind(lm, say)
        told = _and(found, f"plan {plan}")
        found = Steered(found, bound.interventions, system=bound.system, name=told, fitted_on=bound.fitted_on)
    if sae is not None:
        told = "sae " + " ".join(f"{latent}={value:g}" for latent, value in clamps.items())
        found = Steered(found, clamped(lm, sae, clamps, layer).interventions, name=_and(found, told))
    return found


def _and(base: "Responder", told: str) -> str:
    """A name for what is done on top of what the base does."""
    return told if base.name == "unsteered" else f"{base.name}, {told}"
