"""One call of ``steer train``, on every process that torchrun has started: from its options to what it prints."""

import os
from pathlib import Path
from typing import Any

import typer

from saes.distributed.world import TIMEOUT_S, World
from steer.cli.console import Terminal
from steer.cli.memory import keep_freed_memory
from steer.cli.options import asked_threads
from steer.cli.train.interrupted import Interrupts
from steer.cli.train.settings import merged, numbers, words
from steer.cli.train.shown import print_estimate, print_result
from steer.progress import Progress, Silent
from steer.training.config import TrainingConfig
from steer.training.estimate import estimate
from steer.training.job import TrainingResult, train

CALL: dict[str, Any] = {
    "config": None,
    "dry_run": False,
    "overwrite": False,
    "as_json": False,
    "latent_shards": 1,
    "timeout": TIMEOUT_S,
    "ranks": None,
}
"""Options that are no fields of ``TrainingConfig``, and what they are where they are not given."""
NUMBERS, WORDS = ("d_sae", "k", "seed", "prefixes", "exclude_ids"), ("site", "site_out")  # separated by commas


def run(options: dict[str, Any]) -> None:
    """Train, or estimate, as the options say that are given; the first process alone tells what comes of it."""
    call = {name: options.get(name, default) for name, default in CALL.items()}
    if call["ranks"] and not call["dry_run"]:
        raise typer.BadParameter("--ranks goes with --dry-run. torchrun says how many processes train.")
    keep_freed_memory()
    shards = 1 if call["dry_run"] else call["latent_shards"]
    with World.from_env(os.environ, shards, timeout_s=call["timeout"]) as world:
        settings = world.together(lambda: settings_of(options, call["config"]))
        if call["dry_run"]:
            _estimate(settings, call, world)
        else:
            _train(settings, call, world)


def settings_of(options: dict[str, Any], file: Path | None) -> TrainingConfig:
    """The fields among the options, those of the file, and the threads that the environment asks for.

    Raises:
        DataError, typer.BadParameter: see ``merged``.
    """
    given = {name: value for name, value in options.items() if name not in CALL}
    given |= {name: numbers(given[name]) for name in NUMBERS if name in given}
    given |= {name: words(given[name]) for name in WORDS if name in given}
    settings = merged(given, file)
    if settings.threads is None and (asked := asked_threads(None)):
        settings = settings.model_copy(update={"threads": asked})
    return settings


def _estimate(settings: TrainingConfig, call: dict[str, Any], world: World) -> None:
    if world.rank:
        return
    there = world.size if world.size > 1 else call["latent_shards"]
    planned = World.on_paper(call["ranks"] or there, call["latent_shards"])
    print_estimate(estimate(settings, call["overwrite"], Terminal(), planned), call["as_json"])


def _train(settings: TrainingConfig, call: dict[str, Any], world: World) -> None:
    first = world.rank == 0
    progress = Terminal() if first else Silent()
    with Interrupts(first, world.all.alone) as interrupts:
        result = train(settings, call["overwrite"], progress, interrupts.stop, world)
    if interrupts.asked and not result.done:
        progress.note(
            f"interrupted: {result.folder} holds a checkpoint after {result.tokens:,} of {settings.total_tokens:,} "
            "tokens. The same command goes on from there."
        )
        raise typer.Exit(interrupts.exit_code)
    if first:
        _tell(result, call["as_json"], progress)


def _tell(result: TrainingResult, as_json: bool, progress: Progress) -> None:
    print_result(result, as_json)
    if not result.done:
        progress.note(f"stopped after {result.tokens:,} tokens, as asked. The same command goes on from there.")
