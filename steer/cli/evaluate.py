"""``steer eval``: tasks with any responder, kept as they go."""

import json
from pathlib import Path
from typing import Annotated

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
from steer.cli.interrupts import importing
from steer.cli.judge_options import (
    AnswerTokens,
    Keep,
    Name,
    Question,
    Raw,
    Template,
    Timeout,
    Url,
    Verdicts,
    judge_given,
)
from steer.cli.notes import say
from steer.cli.options import Device, Dtype, DtypeName, Everything, Json, Offline, Revision, Threads, asked_threads
from steer.cli.who_answers import Adapter, Clamps, Layer, Plan, Sae, SelfContrastive, System, WhoAnswers

ASKED = "What is asked"


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
    judge_timeout: Timeout = None,
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
    plan: Plan = None,
    sae: Sae = None,
    clamp: Clamps = None,
    layer: Layer = None,
    system: System = None,
    adapter: Adapter = None,
    self_contrastive: SelfContrastive = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Samples answered together, at most; halved where memory does not suffice.")
    ] = 256,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = DtypeName.auto,
    threads: Threads = None,
    offline: Offline = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the run in the folder and begin anew.")
    ] = False,
    everything: Everything = False,
    as_json: Json = False,
) -> None:
    """Evaluate a model, as it is or steered, on tasks; every sample is kept as it is finished.

    Who answers is the model as it is, or under a system prompt or self-contrastive decoding; with an adapter; steered
    by a plan or by clamps; or all of these together.
    """
    given = locals()
    who = WhoAnswers(plan, sae, clamp, layer, system, adapter, self_contrastive)
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
    steering = who.opened_plan()
    attack = attack_options(attacks, attacker, rater, repeats, seed, device, dtype, offline)
    judged = judge_given({**given, "dtype": DtypeName.auto})  # --dtype is the model's, not the judge's
    options = TaskOptions(judged, data, split, limit, max_new_tokens, offline, select, attack)  # type: ignore[arg-type]  # checked above
    tasks = tasks_of([name.strip() for name in task.split(",") if name.strip()], options)
    progress = Terminal()
    with progress.stage("load"):
        lm = load_model(model, device, dtype.value, revision, offline, note=say)
    responder = who.responder(lm, steering, batch_size)
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
