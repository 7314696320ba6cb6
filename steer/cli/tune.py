"""``steer tune``: fine-tuning with a stated share of safety examples."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.interrupts import importing
from steer.cli.options import Device, Dtype, DtypeName, Json, Model, Offline, Revision, Seed, Threads, asked_threads

if TYPE_CHECKING:
    from steer.tuning.job import TuningResult

WHAT, LORA, TRAIN, RUN = "What is read", "LoRA", "Training", "The run"


def tune(
    data: Annotated[
        str, typer.Option(help="General examples: .jsonl (.gz) or .json of messages, or instruction/input/output.")
    ],
    out: Annotated[str, typer.Option(help="The run folder. The same command goes on with a run that was stopped.")],
    safety: Annotated[
        str | None, typer.Option(help="Safety examples, of the same kinds.", rich_help_panel=WHAT, show_default=False)
    ] = None,
    share: Annotated[
        float, typer.Option(help="Safety examples as a share of all; the paper: 0 to 0.1.", rich_help_panel=WHAT)
    ] = 0.0,
    cutoff: Annotated[int, typer.Option(help="Tokens after which an example is cut off.", rich_help_panel=WHAT)] = 256,
    train_on_prompt: Annotated[
        bool,
        typer.Option("--train-on-prompt", help="Loss on all tokens, not the assistant's alone.", rich_help_panel=WHAT),
    ] = False,
    validation_frac: Annotated[
        float, typer.Option(help="Share of each file kept from training, to measure on.", rich_help_panel=WHAT)
    ] = 0.05,
    model: Model = "embedded",
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = DtypeName.auto,
    threads: Threads = None,
    offline: Offline = False,
    rank: Annotated[int, typer.Option(help="Of the matrices that are added.", rich_help_panel=LORA)] = 8,
    alpha: Annotated[float, typer.Option(help="What is added is times alpha / rank.", rich_help_panel=LORA)] = 16.0,
    dropout: Annotated[float, typer.Option(help="Of what a LoRA layer reads.", rich_help_panel=LORA)] = 0.05,
    target: Annotated[
        str | None,
        typer.Option(
            help="Layers to tune, such as q_proj,v_proj; else queries and values.",
            metavar="LIST",
            rich_help_panel=LORA,
            show_default=False,
        ),
    ] = None,
    lr: Annotated[float, typer.Option(help="Peak learning rate of AdamW.", rich_help_panel=TRAIN)] = 3e-4,
    warmup_steps: Annotated[int, typer.Option(help="Steps over which it rises.", rich_help_panel=TRAIN)] = 10,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.", rich_help_panel=TRAIN)] = 0.0,
    grad_clip: Annotated[float, typer.Option(help="Largest norm of the gradient.", rich_help_panel=TRAIN)] = 1.0,
    epochs: Annotated[
        float | None, typer.Option(help="Times that all is read; 3 by default.", rich_help_panel=TRAIN)
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimiser steps, in place of epochs.", rich_help_panel=TRAIN)
    ] = None,
    batch: Annotated[int, typer.Option(help="Examples of an optimiser step.", rich_help_panel=TRAIN)] = 128,
    micro_batch: Annotated[int, typer.Option(help="Examples of a forward pass.", rich_help_panel=TRAIN)] = 16,
    seed: Seed = 0,
    measure_every_steps: Annotated[int, typer.Option(help="Steps between two measurements.", rich_help_panel=RUN)] = 50,
    save_every_steps: Annotated[int, typer.Option(help="Steps between two checkpoints.", rich_help_panel=RUN)] = 100,
    keep: Annotated[int, typer.Option(help="Checkpoints to keep.", rich_help_panel=RUN)] = 2,
    resume_from: Annotated[
        str | None,
        typer.Option(
            help="A checkpoint with the same settings to go on from in a new folder.",
            rich_help_panel=RUN,
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the run in the folder and begin anew.", rich_help_panel=RUN)
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and count; train and write nothing.", rich_help_panel=RUN)
    ] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model by LoRA on examples, of which a stated share are safety examples (arXiv 2309.07875).

    The adapter is written in the format of peft; the model itself is not touched. Training is kept in a run folder:
    stopped with Ctrl-C, or killed, the same command goes on exactly where it was.
    """
    given: dict[str, Any] = {name: value for name, value in locals().items() if value is not None}
    call = {name: given.pop(name) for name in ("overwrite", "dry_run", "as_json")}
    if epochs is not None and steps is not None:
        raise typer.BadParameter("--epochs and --steps say the same in two ways: give one of them")
    with importing():
        from steer.cli.console import Terminal, import_transformers
        from steer.cli.train.interrupted import Interrupts
        from steer.tuning.config import TuningConfig
        from steer.tuning.job import tune as run

        import_transformers()
    given |= {"dtype": dtype.value, "threads": asked_threads(threads)}
    given["target"] = tuple(part.strip() for part in target.split(",")) if target is not None else ()
    progress = Terminal()
    with Interrupts() as interrupts:
        result = run(TuningConfig(**given), call["overwrite"], progress, interrupts.stop, dry_run=call["dry_run"])
    if interrupts.asked and not result.done:
        progress.note(
            f"interrupted: {result.folder} holds a checkpoint after {result.steps:,} of {result.of_steps:,} steps. "
            "The same command goes on from there."
        )
        raise typer.Exit(interrupts.exit_code)
    _tell(result, call["as_json"], call["dry_run"])


def _tell(result: "TuningResult", as_json: bool, dry_run: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from steer.cli.console import shown

    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(result), default=_plain, ensure_ascii=False))
        return
    mixture, table = result.mixture, Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    counts = f"{mixture['general']:,} general and {mixture['safety']:,} safety ({100 * mixture['share']:.2f} %)"
    rows = {
        "examples": counts + (f"; {result.left_out:,} left out" if result.left_out else ""),
        "general SHA-256": mixture["general_sha256"],
        "safety SHA-256": mixture["safety_sha256"],
        "kept to measure on": f"{mixture['held_general']:,} general and {mixture['held_safety']:,} safety",
        "tuned": f"{result.weights:,} weights at {', '.join(result.target)}",
        "steps": f"{result.steps:,} of {result.of_steps:,}",
        "loss": _nats(result.loss),
        "on general examples kept": _nats(result.validation_general),
        "on safety examples kept": _nats(result.validation_safety),
        "adapter": "" if result.adapter is None else shown(result.adapter),
    }
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            table.add_row(name, escape(value))
    Console().print(table, *(["Nothing was written."] if dry_run else []))


def _nats(value: float | None) -> str:
    return "" if value is None else f"{value:.4f} nats a token"


def _plain(value: Any) -> str:
    from steer.cli.console import shown

    assert isinstance(value, Path)
    return shown(value)
