"""Training SAEs on a stream of activation tensors. It knows no language model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from typing import overload

import torch

from saes.config import SAEConfig, TrainConfig
from saes.distributed.world import ONE, World
from saes.errors import ConfigError, DivergedError, ShapeError, WorldError, said_by_all
from saes.fitting import Batch, Fitting, TrainRecord
from saes.run import RunConfig, RunFolder
from saes.sae import SAE

__all__ = ["Batch", "TrainRecord", "fit"]


@overload
def fit(
    config: SAEConfig,
    batches: Iterable[Batch],
    train: TrainConfig,
    on_record: Callable[[TrainRecord], None] | None = None,
    run: RunConfig | None = None,
    world: World = ONE,
) -> SAE: ...


@overload
def fit(
    config: Sequence[SAEConfig],
    batches: Iterable[Batch],
    train: TrainConfig | Sequence[TrainConfig],
    on_record: Callable[[TrainRecord], None] | None = None,
    run: RunConfig | None = None,
    world: World = ONE,
) -> list[SAE]: ...


@torch.inference_mode(False)
@torch.no_grad()
def fit(
    config: SAEConfig | Sequence[SAEConfig],
    batches: Iterable[Batch],
    train: TrainConfig | Sequence[TrainConfig],
    on_record: Callable[[TrainRecord], None] | None = None,
    run: RunConfig | None = None,
    world: World = ONE,
) -> SAE | list[SAE]:
    """Train an SAE on ``train.steps`` batches of ``train.batch_tokens`` activations, shape [token, d_in].

    It is trained, and returned, on the device of the first batch, also where the caller has switched gradients off.

    The same seed and the same batches give bit-identical weights on one machine. Inside, activations are scaled so that
    their mean norm in the first batch is sqrt(d_in), which makes one learning rate fit all models, however large or
    small their activations; the scale is folded into the biases at the end, so the SAE returned reads and writes raw
    activations. Where the SAE normalises each token itself (``input_norm``), it is trained on normalised tokens.

    Args:
        config: the SAE; or several, which are trained on one reading of the stream. Each comes out bit for bit as if it
            had been trained alone.
        batches: tensors, or dicts from the name of a site to a tensor, of which ``config.site`` and ``site_out`` pick.
        train: how it is trained; several SAEs have one for all or one each, all with the same ``batch_tokens``.
        on_record: is given each line of the training log.
        run: where the run is kept, so that it can be stopped, also by a kill, and gone on with exactly: calling again
            with a stream opened anew continues. ``batches`` must then have ``state()``, which gives JSON data and
            tensors, and ``restore(state)``. torch's global random state is kept, too.
        world: the processes that train together (``World.from_env``); each calls this, with batches of its own: rank r
            of n gives the r-th n-th of the rows of each batch (``Slices`` and ``Parts`` do so). The losses are those of
            one process. ``on_record`` is called on every rank. Where latents are divided over ranks, each gets back an
            SAE of its own latents alone, and the whole one is in the run folder.

    Raises:
        ConfigError: the settings do not fit together, a batch lacks a site, or the run folder holds another run.
        ShapeError: a batch has the wrong shape, holds NaN or infinite values or no variance, or the stream ends early.
        DivergedError: the loss is not finite. The last checkpoint stays.
        FormatError: the run folder cannot be read or written, or its newest checkpoint is damaged.
        WorldError: another process is gone, or does not answer in time. What one process raises, all do.
    """
    fittings = _fittings(config, train, world)
    if run is None and not world.latents.alone:
        raise ConfigError(
            "Where latents are divided over processes, the whole SAE is written to a run folder: give run."
        )
    last = max(one.train.steps for one in fittings)
    folder = None if run is None else RunFolder(run, fittings, batches, world)
    with nullcontext() if folder is None else closing(folder), _kept_named(folder):
        done = 0 if folder is None else folder.steps_done
        stream: Iterator[Batch] = iter(batches)
        while done < last:
            batch = world.together(lambda: _next(stream, last, fittings[0].train.batch_tokens))
            for record in _advanced(fittings, batch):
                if folder:
                    folder.record(record)
                if on_record:
                    on_record(record)
            done += 1
            if folder and folder.after_step(last):
                break
        saes = [one.finish() for one in fittings]
        if folder and done == last:
            folder.finish(saes)
    return saes[0] if isinstance(config, SAEConfig) else saes


def _fittings(
    config: SAEConfig | Sequence[SAEConfig], train: TrainConfig | Sequence[TrainConfig], world: World
) -> list[Fitting]:
    configs = [config] if isinstance(config, SAEConfig) else list(config)
    trains = [train] * len(configs) if isinstance(train, TrainConfig) else list(train)
    if not configs or len(configs) != len(trains):
        raise ConfigError(f"Each SAE has its TrainConfig, or all have one: got {len(configs)} SAEs and {len(trains)}.")
    sizes = sorted({one.batch_tokens for one in trains})
    if len(sizes) > 1:
        raise ConfigError(f"SAEs that share a stream share its batches, so batch_tokens must be equal: got {sizes}.")
    return [Fitting(one, its, number, world) for number, (one, its) in enumerate(zip(configs, trains, strict=True))]


@contextmanager
def _kept_named(folder: RunFolder | None) -> Iterator[None]:
    """Say which checkpoint is kept when a training cannot go on."""
    try:
        yield
    except (DivergedError, WorldError) as error:
        if folder is None or folder.saved is None:
            raise
        raise type(error)(f"{error} The last good checkpoint is {folder.saved}.") from error


def _advanced(fittings: Sequence[Fitting], batch: Batch) -> Iterator[TrainRecord]:
    """One step of each SAE that is not done yet."""
    for one in fittings:
        if one.steps_done < one.train.steps:
            try:
                record = one.advance(batch)
            except (DivergedError, ShapeError) as error:
                if not one.world.all.alone:
                    said_by_all(error)  # it is about the whole batch
                if len(fittings) == 1 or not isinstance(error, DivergedError):
                    raise
                raise DivergedError(f"SAE {one.number}: {error}") from error
            if record:
                yield record


def _next(stream: Iterator[Batch], steps: int, batch_tokens: int) -> Batch:
    try:
        return next(stream)
    except StopIteration:
        raise ShapeError(
            f"The stream of activations ended before {steps} batches of {batch_tokens} tokens. "
            "Give more text or lower total_tokens."
        ) from None
