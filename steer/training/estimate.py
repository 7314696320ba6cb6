"""What a run will take: memory with its arithmetic, time from a short burst, files. Nothing is written."""

import shutil
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from saes.config import SAEConfig, TrainConfig
from saes.distributed.world import ONE, World
from saes.fitting import Fitting
from saes.run_config import CHECKPOINTS, LOG, SETTINGS
from saes.sae import SAE
from saes.step import step
from saes.training import Training
from steer.activations.reading import blocks
from steer.errors import DataError
from steer.progress import Progress, Silent
from steer.training.config import TrainingConfig
from steer.training.folder import WANDB, check_folder, holds_run, steps_saved
from steer.training.loggers import require_loggers
from steer.training.memory import Part, memory_parts, moment_bytes, peak_of, share_of, weight_bytes
from steer.training.plan import Plan, check
from steer.training.stream import Opened, opened

BURST_SECONDS = 2.0  # of model passes, at least two


@dataclass(frozen=True)
class File:
    """A file or folder that will be written."""

    path: Path
    bytes: int | None
    """None: it depends on the run."""
    what: str


@dataclass(frozen=True)
class Estimate:
    """What a run will take."""

    folder: Path
    steps: int
    begins_at_step: int
    """0, or that of the newest checkpoint."""
    ranks: int
    """Processes that train together; the next two are those of each."""
    latent_shards: int
    """Parts that the latents are divided into."""
    parts: tuple[Part, ...]
    bytes: int
    """The largest sum of parts at one time, without what Python and its libraries take."""
    device: str
    """Where the parts are."""
    model_tokens_per_second: float | None
    """Of all processes together. Measured here: some passes over the beginning of the text; None: there is no model."""
    step_seconds: tuple[float, ...]
    """Measured for each SAE: one step on random activations, of the shape that one process has; without exchange."""
    seconds: tuple[float, float]
    """Of what is left to do: where model and SAEs overlap wholly, and where not at all."""
    files: tuple[File, ...]
    file_bytes: int
    free_bytes: int
    """Of the disk."""


def estimate(
    config: TrainingConfig, overwrite: bool = False, progress: Progress | None = None, world: World = ONE
) -> Estimate:
    """What ``train`` with these settings would take. The model is loaded, and nothing is written.

    ``world``: the processes that would train (``World.on_paper``); this one alone measures.

    Raises:
        whatever ``train`` does of settings, model, text and folder; DataError where an SAE does not fit into memory.
    """
    progress = progress or Silent()
    check(config)
    require_loggers(config)
    check_folder(config, overwrite)
    folder = Path(config.out)
    with opened(config, progress, store=False) as run:
        for given, train in zip(run.plan.given, run.plan.trains, strict=True):
            Fitting(given, train, world=world)  # what cannot be divided shows now
        with progress.stage("measuring the model"):
            rate = None if run.lm is None or run.source is None else world.size * _model_rate(run)
        with progress.stage("measuring a step of each SAE"):
            device = run.stream.inner.config.device or (run.lm.device if run.lm else torch.device("cpu"))
            pairs = [share_of(*pair, world) for pair in zip(run.plan.saes, run.plan.trains, strict=True)]
            seconds = tuple(_step_seconds(sae, train, torch.device(device)) for sae, train in pairs)
        parts = memory_parts(config, run, world)
    done = steps_saved(folder) if holds_run(folder) and not overwrite else 0
    left, sae_seconds = run.plan.steps - done, sum(seconds)
    read_seconds = config.batch_tokens / rate if rate else 0.0
    files = _files(config, run.plan, sum(part.bytes for part in parts if part.name == "ring"))
    return Estimate(
        folder,
        run.plan.steps,
        done,
        world.size,
        world.latents.size,
        tuple(parts),
        peak_of(parts),
        str(device),
        rate,
        seconds,
        (left * max(sae_seconds, read_seconds), left * (sae_seconds + read_seconds)),
        tuple(files),
        sum(file.bytes or 0 for file in files),
        shutil.disk_usage(_nearest(folder)).free,
    )


def _model_rate(run: Opened) -> float:
    """Tokens per second that the model gives, measured on the beginning of the text."""
    assert run.lm is not None and run.source is not None and run.reading is not None  # noqa: PT018
    passes = (block for block, _ in blocks(run.lm, run.source, run.reading, endless=False))
    first = next(passes)  # warms up, and is the only one of a short text
    tokens, started = 0, time.perf_counter()
    for block in islice(passes, 64):
        tokens += block.shape[1]
        _wait(block.device)
        if time.perf_counter() - started > BURST_SECONDS:
            break
    if not tokens:
        started = time.perf_counter()
        tokens = next(blocks(run.lm, run.source, run.reading, endless=False))[0].shape[1] or first.shape[1]
    return tokens / (time.perf_counter() - started)


def _step_seconds(sae: SAEConfig, train: TrainConfig, device: torch.device) -> float:
    """Of the second of two steps on random activations."""
    try:
        training = Training(SAE(sae, train.seed).to(device), train)
        generator = torch.Generator().manual_seed(0)
        x, y = (torch.randn(train.batch_tokens, width, generator=generator).to(device)
                for width in (sae.d_in, sae.width_out))  # fmt: skip
        taken = 0.0
        for _ in range(2):
            started = time.perf_counter()
            step(training, x, 1e-6, y if sae.is_transcoder else x)
            _wait(device)
            taken = time.perf_counter() - started
    except (RuntimeError, MemoryError) as error:
        raise DataError(
            f"An SAE with {sae.d_sae:,} latents and batches of {train.batch_tokens:,} tokens cannot be trained on "
            f"{device}: {' '.join(str(error).split())[:200]}. Lower --d-sae or --batch-tokens."
        ) from error
    return taken


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _files(config: TrainingConfig, plan: Plan, ring: int) -> list[File]:
    folder = Path(config.out)
    moments = sum(moment_bytes(*pair) for pair in zip(plan.saes, plan.trains, strict=True))
    counters = sum(8 * sae.d_sae for sae in plan.saes)
    one = sum(map(weight_bytes, plan.saes)) + moments + ring + counters
    lines = sum(train.steps // train.measure_every_steps + 2 for train in plan.trains)
    found = [
        File(folder / SETTINGS, None, "the settings"),
        File(folder / LOG, 300 * lines, f"about {lines:,} lines"),
        File(
            folder / CHECKPOINTS,
            (config.keep + 1) * one,
            f"the newest {config.keep} and the one that is written, each {one:,} bytes: SAEs, moments, ring",
        ),
    ]
    for name, sae in zip(plan.names, plan.saes, strict=True):
        found.append(File(folder / name, weight_bytes(sae), "the trained SAE: config.json, sae.safetensors"))
    if config.tensorboard:
        found.append(File(folder / "tensorboard", None, "events"))
    if config.wandb:
        found.append(File(folder / WANDB, None, "what Weights & Biases keeps here"))
    return found


def _nearest(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
