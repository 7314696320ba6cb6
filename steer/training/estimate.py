"""What a run will take: memory with its arithmetic, time from a short burst, files. Nothing is written."""

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from saes.config import SAEConfig, TrainConfig
from saes.optimisers import OPTIMISERS
from saes.run_config import CHECKPOINTS, LOG, SETTINGS
from saes.sae import SAE, tensor_shapes
from saes.step import step
from saes.training import Training
from steer.activations.reading import blocks
from steer.errors import DataError
from steer.progress import Progress, Silent
from steer.training.config import TrainingConfig
from steer.training.folder import WANDB, check_folder, holds_run, steps_saved
from steer.training.loggers import require_loggers
from steer.training.plan import Plan, check
from steer.training.stream import Opened, opened

BURST_SECONDS = 2.0  # of model passes, at least two
FLOAT32 = 4  # bytes
DENSE_COPIES = {"relu": 6, "jumprelu": 10}  # of the latents in autograd's graph, and of their gradients
SPARSE_COPIES = 1.25  # the pre-activations, and what is active of them or dead
BFLOAT16_COPIES = 1.5  # the product in bfloat16, and once more in float32


@dataclass(frozen=True)
class Part:
    """A part of the memory."""

    name: str
    bytes: int
    how: str
    """The arithmetic."""
    at: str = "always"
    """``always``; or ``step`` or ``checkpoint``: while one is made, and these two are never at once."""


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
    parts: tuple[Part, ...]
    bytes: int
    """The largest sum of parts at one time, without what Python and its libraries take."""
    device: str
    """Where the parts are."""
    model_tokens_per_second: float | None
    """Measured: some passes of the model over the beginning of the text; None: activations come from shards."""
    step_seconds: tuple[float, ...]
    """Measured for each SAE: one step on random activations of the right shape."""
    seconds: tuple[float, float]
    """Of what is left to do: where model and SAEs overlap wholly, and where not at all."""
    files: tuple[File, ...]
    file_bytes: int
    free_bytes: int
    """Of the disk."""


def estimate(config: TrainingConfig, overwrite: bool = False, progress: Progress | None = None) -> Estimate:
    """What ``train`` with these settings would take. The model is loaded, and nothing is written.

    Raises:
        whatever ``train`` does of settings, model, text and folder; DataError where an SAE does not fit into memory.
    """
    progress = progress or Silent()
    check(config)
    require_loggers(config)
    check_folder(config, overwrite)
    folder = Path(config.out)
    with opened(config, progress) as run:
        with progress.stage("measuring the model"):
            rate = None if run.lm is None or run.source is None else _model_rate(run)
        with progress.stage("measuring a step of each SAE"):
            device = run.stream.inner.config.device or (run.lm.device if run.lm else torch.device("cpu"))
            pairs = list(zip(run.plan.saes, run.plan.trains, strict=True))
            seconds = tuple(_step_seconds(sae, train, torch.device(device)) for sae, train in pairs)
        parts = memory_parts(config, run)
    done = steps_saved(folder) if holds_run(folder) and not overwrite else 0
    left, sae_seconds = run.plan.steps - done, sum(seconds)
    read_seconds = config.batch_tokens / rate if rate else 0.0
    files = _files(config, run.plan, parts)
    return Estimate(
        folder,
        run.plan.steps,
        done,
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


def peak_of(parts: Sequence[Part]) -> int:
    """The largest sum of parts at one time."""
    sums = {when: sum(part.bytes for part in parts if part.at == when) for when in ("always", "step", "checkpoint")}
    return sums["always"] + max(sums["step"], sums["checkpoint"])


def memory_parts(config: TrainingConfig, run: Opened) -> list[Part]:
    """What lies in memory, apart from Python and its libraries."""
    plan, found = run.plan, list[Part]()
    width, batch = run.origin.d_model, config.batch_tokens
    sites, dtype = len(run.stream.inner.sites if run.lm is None else run.reading.all_sites), torch.float32  # type: ignore[union-attr]
    if run.lm is not None:
        weights = list(run.lm.model.parameters())
        dtype = weights[0].dtype
        total = sum(p.numel() * p.element_size() for p in weights)
        found.append(Part("model", total, f"{sum(p.numel() for p in weights):,} weights, {total:,} bytes"))
    size = dtype.itemsize
    for name, sae, train in zip(plan.names, plan.saes, plan.trains, strict=True):
        found += _sae_parts(name, sae, train)
    if run.source is not None:
        ring = run.stream.inner.config.ring_tokens
        how = f"{ring:,} tokens x {sites} sites x {width} x {size} bytes"
        found.append(Part("ring", ring * sites * width * size, how))
        ahead = config.ahead + 1
        passed = config.forward_tokens * sites * width * size
        found.append(
            Part(
                "passes ahead", ahead * passed, f"{ahead} of {config.forward_tokens:,} tokens x {sites} sites x {width}"
            )
        )
        found.append(Part("copy of the ring", ring * sites * width * size, "while it is written", "checkpoint"))
    served = batch * sites * width * size
    found.append(Part("batch", served, f"{batch:,} tokens x {sites} sites x {width} x {size} bytes"))
    return found


def _sae_parts(name: str, sae: SAEConfig, train: TrainConfig) -> list[Part]:
    shapes = {name: list(shape) for name, shape in tensor_shapes(sae).items()}
    count = sum(math.prod(shape) for shape in shapes.values())
    kept = _state_bytes(shapes, train)
    dense = sae.activation in DENSE_COPIES
    copies = DENSE_COPIES.get(sae.activation, SPARSE_COPIES)
    copies += BFLOAT16_COPIES if train.compute_dtype == "bfloat16" else 0
    pre = round(train.batch_tokens * sae.d_sae * FLOAT32 * copies)
    rows = train.batch_tokens * max(sae.d_in, sae.width_out) * FLOAT32
    grads = count * FLOAT32 * (2 if dense else 1)
    return [
        Part(f"{name}: weights", count * FLOAT32, f"{count:,} x 4 bytes"),
        Part(f"{name}: gradients", grads, f"{count:,} x 4 bytes" + (" x 2 (autograd's, and room for them)" * dense)),
        Part(f"{name}: moments ({train.optimiser})", kept, f"{kept / count:.3g} bytes a weight"),
        Part(
            f"{name}: pre-activations",
            pre,
            f"{train.batch_tokens:,} tokens x {sae.d_sae:,} latents x 4 bytes x {copies:g}",
            "always" if not dense else "step",
        ),
        Part(f"{name}: batch, scaled", 6 * rows, "6 (input, target, residual, ...) of the batch in float32", "step"),
        Part(f"{name}: files in memory", count * FLOAT32, "while they are written", "checkpoint"),
    ]


def _state_bytes(shapes: dict[str, list[int]], train: TrainConfig) -> int:
    """What the optimiser keeps, asked of itself."""
    trained = [torch.empty(shape, device="meta") for shape in shapes.values() if shape]
    states = [OPTIMISERS[train.optimiser].state(p) for p in trained]
    return sum(tensor.numel() * tensor.element_size() for state in states for tensor in state.values())


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


def _files(config: TrainingConfig, plan: Plan, parts: Sequence[Part]) -> list[File]:
    folder = Path(config.out)
    sae_bytes = sum(part.bytes for part in parts if part.name.endswith(": weights"))
    moments = sum(part.bytes for part in parts if ": moments" in part.name)
    ring = sum(part.bytes for part in parts if part.name == "ring")
    counters = sum(8 * sae.d_sae for sae in plan.saes)
    one = sae_bytes + moments + ring + counters
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
        size = FLOAT32 * sum(math.prod(shape) for shape in tensor_shapes(sae).values())
        found.append(File(folder / name, size, "the trained SAE: config.json, sae.safetensors"))
    if config.tensorboard:
        found.append(File(folder / "tensorboard", None, "events"))
    if config.wandb:
        found.append(File(folder / WANDB, None, "what Weights & Biases keeps here"))
    return found


def _nearest(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
