"""``steer eval``: tasks with any responder, kept as they go."""

from pathlib import Path
from typing import Annotated

import typer

from steer.cli.eval_asked import AttackAsked, Seed, SelectAsked, TasksAsked
from steer.cli.interrupts import importing
from steer.cli.judge_options import JudgeAsked, Name, judge_from
from steer.cli.notes import say
from steer.cli.option_groups import with_groups
from steer.cli.options import Device, Dtype, DtypeName, Everything, Json, Offline, Revision, Threads, asked_threads
from steer.cli.who_answers import WhoAnswers


@with_groups
def evaluate(
    model: Annotated[str, typer.Argument(help="`embedded`, a folder in transformers format, or a hub id.")],
    task: Annotated[str, typer.Option(help="Tasks, groups of them, or own .jsonl files: xstest,oktest,mine.jsonl.")],
    out: Annotated[Path, typer.Option(help="The run folder. The same command goes on with a run that was stopped.")],
    *,
    asked: TasksAsked,
    judge: Name = "rules",
    judge_asked: JudgeAsked,
    attack: AttackAsked,
    select: SelectAsked,
    seed: Seed = None,
    who: WhoAnswers,
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
    with importing():
        from steer.cli.console import Terminal, import_transformers, shown
        from steer.cli.eval_shown import tell
        from steer.evals.run import run_tasks
        from steer.evals.run_folder import check_folder
        from steer.evals.tasks.options import TaskOptions
        from steer.evals.tasks.registry import tasks_of
        from steer.models.chat import NO_TEMPLATE_NOTE, is_raw
        from steer.models.load import load_model
        from steer.threads import torch_threads

        import_transformers()
    check_folder(out, overwrite)
    plan = who.opened_plan()
    options = TaskOptions(
        attack=attack.options(seed, device, dtype, offline),
        judge=judge_from(judge, judge_asked, device, offline=offline),  # --dtype is the model's, not the judge's
        select=select.options(seed),
        offline=offline,
        **asked.options(),
    )
    tasks = tasks_of([name.strip() for name in task.split(",") if name.strip()], options)
    progress = Terminal()
    with progress.stage("load"):
        lm = load_model(model, device, dtype.value, revision, offline, note=say)
    if not lm.has_chat_template and any(not is_raw(sample.messages) for one in tasks for sample in one.samples):
        progress.note(NO_TEMPLATE_NOTE)
    responder = who.responder(lm, plan, batch_size)
    about = {"model": model, "revision": revision, "dtype": dtype.value}
    with torch_threads(lm.model, asked_threads(threads)):
        found = run_tasks(responder, tasks, out, batch_size, progress, about, overwrite)
    tell(found, everything, as_json)
    if not as_json:
        typer.echo(f"Results: {shown(out)}")
