"""The training of SAEs from text, kept in a run folder: ``train`` reads downwards.

Check what can be checked, load the model, open the text, look at the first batch, and only then touch the folder.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import saes
from saes import DivergedError, RunConfig, TrainRecord, World
from saes.distributed.world import ONE
from saes.fitting import Fitting
from saes.kernels import kernels_for
from saes.run_config import LOG
from steer.files import read_lines
from steer.models.load import resolve_device
from steer.progress import Progress, Silent
from steer.training.config import TrainingConfig
from steer.training.folder import (
    came_to_nothing,
    check_folder,
    clear,
    holds_run,
    let_go,
    mend,
    put_back,
    set_aside,
    steps_saved,
)
from steer.training.loggers import Logging, loggers_of, require_loggers
from steer.training.plan import Plan, check, run_config
from steer.training.stream import Opened, opened


@dataclass(frozen=True)
class TrainedSAE:
    """One of the SAEs of a run. The figures are those of the newest line of its log."""

    folder: Path
    """Where it is, or will be when the run is done."""
    site: str
    d_sae: int
    """Number of latents."""
    k: int | None
    seed: int
    tokens: int
    """Trained on."""
    fvu: float | None
    """Of the last batch that was measured; None: none was yet, as for the next four."""
    l0: float | None
    """Mean number of active latents of a token."""
    dead_fraction: float | None
    """Share of the latents."""
    seconds: float | None
    """Of training, pauses left out."""
    tokens_per_second: float | None
    """Mean over these."""


@dataclass(frozen=True)
class TrainingResult:
    """What a call of ``train`` leaves."""

    folder: Path
    """The run folder."""
    tokens: int
    """Trained on and saved."""
    done: bool
    """Whether the training is over; otherwise the same call goes on with it."""
    saes: tuple[TrainedSAE, ...]


def train(
    config: TrainingConfig,
    overwrite: bool = False,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    world: World = ONE,
) -> TrainingResult:
    """Train the SAEs that ``config`` asks for, on one reading of the text; go on with a run that was stopped.

    ``overwrite`` begins anew instead: the run that is there is removed once the new one has a checkpoint. ``stop`` is
    asked after every step; where it says true, a checkpoint is written and the call ends, on all processes.

    ``world``: the processes that train together (``saes.World.from_env``), each of which calls this with the same
    settings. Every one reads all of the text and makes its share of the passes of the model; the first alone shows
    progress, logs and clears. The losses are those of one process.

    Raises:
        ConfigError, DataError: settings that cannot work, text or shards that cannot be used, or too little text.
        ModelError, SiteError: the model cannot be loaded, or lacks a site.
        OutputError, FormatError: the folder holds something else, or cannot be read or written.
        ShapeError: activations cannot be trained on: NaN, all equal, ...
        DivergedError: the loss is not finite. The last checkpoint stays.
        WorldError: another process is gone, or does not answer in time.
    """
    first, folder = world.rank == 0, Path(config.out)
    progress = (progress if first else None) or Silent()
    config = _on_its_device(config, world)
    world.share(config.batch_tokens)
    world.together(lambda: check(config))
    world.together(lambda: _check_place(config, overwrite) if first else None)
    new = world.all.from_first(overwrite or not holds_run(folder) or came_to_nothing(folder))
    with ExitStack() as stack:
        run = world.together(lambda: stack.enter_context(opened(config, progress, world)))
        if new:
            with progress.stage("reading the first activations"):
                world.together(lambda: run.stream.peek(run.origin.d_model))
        _note_selection(config, run, progress, world)
        for sae, trained in zip(run.plan.given, run.plan.trains, strict=True):
            Fitting(sae, trained, world=world)  # what cannot be divided shows before anything is removed
        if new:
            world.together(lambda: (clear if came_to_nothing(folder) else set_aside)(folder) if first else None)
        kept = run_config(config, run.plan.names, _letting_go(folder, stop, first) if overwrite else stop)
        try:
            _fit(run.plan, run.stream, progress, config, kept, world)
        except BaseException as error:
            kept_to_see = isinstance(error, DivergedError) and not overwrite  # its log; the next call removes it
            if first and new and not steps_saved(folder) and not kept_to_see:
                put_back(folder)
            raise
        if first:
            let_go(folder)
        return result_of(config, run.plan)


def _letting_go(folder: Path, stop: Callable[[], bool] | None, first: bool) -> Callable[[], bool]:
    """``stop``, which is asked after every step, and removes the run before once this one has a checkpoint."""
    waiting = first

    def asked() -> bool:
        nonlocal waiting
        if waiting and steps_saved(folder):
            let_go(folder)
            waiting = False
        return stop is not None and stop()

    return asked


def _note_selection(config: TrainingConfig, run: Opened, progress: Progress, world: World) -> None:
    """Say once if the k largest are found in another way than was asked for; docs/kernels.md has the table."""
    device = config.ring_device or (run.lm.device if run.lm else resolve_device(config.device))
    done = kernels_for(torch.device(device)).selection_done(config.selection) if world.latents.alone else "exact"
    if done != config.selection:
        progress.note(
            f"selection {config.selection} is not to be had on this machine: the k largest are found by {done}."
        )


def _check_place(config: TrainingConfig, overwrite: bool) -> None:
    require_loggers(config)
    mend(Path(config.out))
    check_folder(config, overwrite)


def _on_its_device(config: TrainingConfig, world: World) -> TrainingConfig:
    """Of several processes, each computes on the device that is its own, unless another kind was asked for."""
    if world.all.alone or config.device not in ("auto", world.device.type):
        return config
    return config.model_copy(update={"device": str(world.device)})


def _fit(plan: Plan, stream: Any, progress: Progress, config: TrainingConfig, run: RunConfig, world: World) -> None:
    first = world.rank == 0
    logging = Logging(loggers_of(config, plan.names) if first else [], progress)
    try:
        with progress.stage("training", total=plan.steps * config.batch_tokens):
            shown = _Shown(progress)

            def told(record: TrainRecord) -> None:
                logging.log(record)
                shown.update(record)

            saes.fit(plan.given, saes.Slices(stream, world), plan.trains, told if first else None, run, world)
    finally:
        logging.close()


class _Shown:
    """The progress line: tokens, and the newest figures of all SAEs."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._tokens = progress, 0
        self._newest: dict[int, TrainRecord] = {}

    def update(self, record: TrainRecord) -> None:
        """Show a line of the log."""
        self._newest[record.sae] = record
        records = list(self._newest.values())
        memory = "" if record.memory_mib is None else f"  {record.memory_mib:,.0f} MiB"
        note = (
            f"FVU {_each(one.fvu for one in records)}  L0 {_each(one.l0 for one in records)}  "
            f"dead {_each(100 * one.dead_fraction for one in records)} %{memory}"
        )
        self._progress.advance(max(0, record.tokens - self._tokens), note)
        self._tokens = max(record.tokens, self._tokens)


def _each(values: Any) -> str:
    return " ".join(f"{value:.3g}" for value in values)


def result_of(config: TrainingConfig, plan: Plan) -> TrainingResult:
    """What a run folder holds."""
    folder = Path(config.out)
    lines = (line for line in read_lines(folder / LOG, missing_ok=True) if "sae" in line)  # a note has none
    newest: dict[int, dict[str, Any]] = {line["sae"]: line for line in lines}
    tokens = steps_saved(folder) * config.batch_tokens
    found = []
    for number, (name, sae, trained) in enumerate(zip(plan.names, plan.saes, plan.trains, strict=True)):
        line = newest.get(number, {})
        seconds = line.get("seconds")
        found.append(
            TrainedSAE(
                folder / name,
                str(sae.site),
                sae.d_sae,
                sae.k,
                trained.seed,
                tokens,
                line.get("fvu"),
                line.get("l0"),
                line.get("dead_fraction"),
                seconds,
                line["tokens"] / seconds if seconds else None,
            )
        )
    return TrainingResult(folder, tokens, tokens == plan.steps * config.batch_tokens, tuple(found))
