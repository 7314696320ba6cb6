"""Tuning a model on a mixture of general and safety examples, kept in a run folder: ``tune`` reads downwards."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saes.seeds import derived
from steer.errors import DataError
from steer.files import claimed
from steer.models.model import LanguageModel
from steer.progress import Progress, Silent
from steer.threads import torch_threads
from steer.tuning.adapter import Adapter, lora_config, require_peft
from steer.tuning.adapter_files import save_adapter
from steer.tuning.config import MOST_SAFETY, TuningConfig
from steer.tuning.examples import Example, tokenised
from steer.tuning.folder import (
    begin,
    check_folder,
    check_settings,
    finish,
    log,
    log_until,
    newest,
    read_log,
    resumed_from,
    save_checkpoint,
    settings_in,
)
from steer.tuning.given_model import model_of
from steer.tuning.mixture import Mixture, mixed
from steer.tuning.rows import read_examples
from steer.tuning.training import Tuning, seeded


@dataclass(frozen=True)
class TuningResult:
    """What a call of ``tune`` leaves, or would."""

    folder: Path
    """The run folder."""
    adapter: Path | None
    """The folder of the adapter, in peft's format; None: the run is not over."""
    steps: int
    """Optimiser steps done and saved."""
    of_steps: int
    """Of the whole run."""
    done: bool
    mixture: dict[str, Any]
    """Number of examples of each kind, their share, and the SHA-256 of both files."""
    left_out: int
    """Training examples of which nothing to learn is left before the cutoff."""
    weights: int
    """Number of weights that are trained."""
    target: tuple[str, ...]
    """Names of the layers that are tuned."""
    loss: float | None
    """Mean over the training steps of the newest line of the log, in nats a token; None: there is no line yet."""
    validation_general: float | None
    """Mean loss of a token of the general examples held back, in nats; None: there are none."""
    validation_safety: float | None
    """The same of the safety examples."""


@dataclass(frozen=True)
class _Prepared:
    """Everything that a run needs before it begins."""

    tuning: Tuning
    mixture: Mixture
    held: tuple[Sequence[Example], Sequence[Example]]
    """General and safety examples that are measured on."""
    left_out: int


def tune(
    config: TuningConfig,
    overwrite: bool = False,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    lm: LanguageModel | None = None,
    dry_run: bool = False,
) -> TuningResult:
    """Train the adapter that ``config`` asks for, or go on with a run that was stopped, to the same bits on a CPU.

    The model itself is never written to: it computes afterwards what it computed before, also after an error.

    Args:
        config: what is tuned, on what, and where it is kept.
        overwrite: begin anew, and remove the run that is there.
        progress: where stages and steps are shown.
        stop: asked after every step; where it says true, a checkpoint is written and the call ends.
        lm: the model, where it is loaded already; ``config.model`` must then be its name.
        dry_run: check everything and count, but train and write nothing.

    Raises:
        DataError: examples that are missing, damaged or too few. Nothing has been touched then.
        ConfigError, ModelError: settings that cannot work, or a model that cannot be loaded or tuned.
        OutputError, FormatError: the folder holds something else, or cannot be read or written.
        DivergedError: a loss is not finite. The last checkpoint stays.
        MissingExtra: peft is not installed.
    """
    progress, folder = progress or Silent(), Path(config.out)
    require_peft()
    check_folder(folder, overwrite)
    mixture = _mixture(config)
    if config.share > MOST_SAFETY:
        progress.note(f"a share of {config.share:g} is above the paper's: expect more refusals of what is harmless.")
    lm = model_of(config, lm, progress)
    with torch_threads(lm.model, config.threads):
        run = _prepared(config, lm, mixture)
        settings = config.deciding(mixture.record)
        if settings_in(folder) is not None and not overwrite:  # before the folder is made, and again once it is ours
            check_settings(folder, settings)
        elif config.resume_from is not None:
            resumed_from(Path(config.resume_from), settings, progress.note)
        if dry_run:
            return _result(config, run, None)
        with claimed(folder):
            return _run(config, run, settings, overwrite, progress, stop)


def _mixture(config: TuningConfig) -> Mixture:
    general = read_examples(config.data)
    safety = None if config.safety is None else read_examples(config.safety)
    return mixed(general, safety, config.share, config.validation_frac, config.seed)


def _prepared(config: TuningConfig, lm: LanguageModel, mixture: Mixture) -> _Prepared:
    cutoff = min(config.cutoff, lm.context or config.cutoff)

    def examples(rows: Sequence[Any]) -> list[Example]:
        return tokenised(lm, rows, cutoff, config.train_on_prompt)

    training = examples(mixture.training)
    if not training:
        raise DataError(
            f"Nothing to learn is left of {len(mixture.training)} examples after the cutoff at {cutoff} tokens. "
            "Raise cutoff, or give shorter examples."
        )
    steps = config.steps or math.ceil(config.epochs * len(training) / config.batch)
    with seeded(derived(config.seed, "weights"), lm.device):
        adapter = Adapter(lm, lora_config(lm, config.rank, config.alpha, config.dropout, config.target))
    held = examples(mixture.held_general), examples(mixture.held_safety)
    return _Prepared(Tuning(adapter, training, config, steps), mixture, held, len(mixture.training) - len(training))


def _run(
    config: TuningConfig,
    run: _Prepared,
    settings: dict[str, Any],
    overwrite: bool,
    progress: Progress,
    stop: Callable[[], bool] | None,
) -> TuningResult:
    """Go on from the newest checkpoint, or begin; step after step; write the adapter."""
    folder, tuning = Path(config.out), run.tuning
    there = settings_in(folder) is not None and not overwrite
    if there:
        check_settings(folder, settings)
    given = None if config.resume_from is None else Path(config.resume_from)
    source = None if given is None or there else resumed_from(given, settings, progress.note)
    begin(folder, settings, overwrite)
    source = newest(folder, progress.note) if there else source
    if source is not None:
        tuning.restore(source)
    log_until(folder, tuning.done)
    saved = tuning.done if there and source is not None else None
    with ExitStack() as stack:
        stack.enter_context(tuning.adapter.attached())
        stack.callback(tuning.adapter.eval)
        stack.enter_context(progress.stage("tuning", total=tuning.steps))
        progress.advance(tuning.done)
        began, asked = time.perf_counter(), False
        while tuning.done < tuning.steps and not asked:
            loss = tuning.step()
            last = tuning.done == tuning.steps
            if last or tuning.done % config.measure_every_steps == 0:
                _measure(folder, run, time.perf_counter() - began)
            asked = stop is not None and stop()
            if last or asked or tuning.done % config.save_every_steps == 0:
                save_checkpoint(folder, tuning.done, tuning.save, config.keep)
                saved = tuning.done
            progress.advance(1, f"loss {loss:.3f}")
        if tuning.done == tuning.steps and saved is None:  # gone on from another folder's last checkpoint
            save_checkpoint(folder, tuning.done, tuning.save, config.keep)
    done = tuning.done == tuning.steps
    return _result(config, run, finish(folder, lambda to: save_adapter(tuning.adapter, to)) if done else None)


def _measure(folder: Path, run: _Prepared, seconds: float) -> None:
    """A line of the log."""
    tuning = run.tuning
    general, safety = map(tuning.validated, run.held)
    line = {
        "step": tuning.done,
        "loss": tuning.loss_sum / tuning.loss_steps,
        "lr": tuning.lr,
        "validation_general": general,
        "validation_safety": safety,
        "seconds": round(seconds, 3),
    }
    tuning.loss_sum, tuning.loss_steps = 0.0, 0
    log(folder, line)


def _result(config: TuningConfig, run: _Prepared, adapter: Path | None) -> TuningResult:
    tuning, folder = run.tuning, Path(config.out)
    lines = read_log(folder) if tuning.done else []
    line = lines[-1] if lines else {}
    return TuningResult(
        folder,
        adapter,
        tuning.done,
        tuning.steps,
        adapter is not None,
        run.mixture.record,
        run.left_out,
        tuning.trained,
        tuple(sorted(tuning.adapter.config.target_modules)),
        line.get("loss"),
        line.get("validation_general"),
        line.get("validation_safety"),
    )
