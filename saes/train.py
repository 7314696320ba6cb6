"""Training SAEs on a stream of activation tensors. It knows no language model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from typing import Any, overload

import torch

from saes.batches import ended_early, require_iterable
from saes.config import SAEConfig, TrainConfig
from saes.distributed.world import ONE, World
from saes.errors import ConfigError, DivergedError, ShapeError, WorldError, said_by_all
from saes.fitting import Batch, Fitting, TrainRecord
from saes.run import RunFolder
from saes.run_config import RunConfig
from saes.sae import SAE

__all__ = ["Batch", "TrainRecord", "fit"]


@overload
def fit(
    sae: SAEConfig | SAE,
    batches: Iterable[Batch],
    train: TrainConfig,
    on_record: Callable[[TrainRecord], None] | None = None,
    run: RunConfig | None = None,
    world: World = ONE,
) -> SAE: ...


@overload
def fit(
    sae: Sequence[SAEConfig | SAE],
    batches: Iterable[Batch],
    train: TrainConfig | Sequence[TrainConfig],
    on_record: Callable[[TrainRecord], None] | None = None,
    run: RunConfig | None = None,
    world: World = ONE,
) -> list[SAE]: ...


@torch.inference_mode(False)
@torch.no_grad()
def fit(
    sae: SAEConfig | SAE | Sequence[SAEConfig | SAE],
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
        sae: the config of a new SAE, or an SAE whose training goes on: from its weights, which are copied, with a new
            optimiser, new counters and a scale of its own. Or several, which are trained on one reading of the stream.
            Each comes out bit for bit as if it had been trained alone.
        batches: tensors, or dicts from the name of a site to a tensor, of which the SAE's ``site`` and ``site_out``
            pick.
        train: how it is trained; several SAEs have one for all or one each, all with the same ``batch_tokens``.
        on_record: is given each line of the training log.
        run: where the run is kept, so that it can be stopped, also by a kill, and gone on with exactly: calling again
            with a stream opened anew continues. ``batches`` must then have ``state()``, which gives JSON data and
            tensors, and ``restore(state)``. torch's global random state of the CPU
            is kept, too.
        world: the processes that train together (``World.from_env``); each calls this, with batches of its own: rank r
            of n gives the r-th n-th of the rows of each batch (``Slices`` and ``Parts`` do so). The losses are those of
            one process. ``on_record`` is called on every rank. Where latents are divided over ranks, each gets back an
            SAE of its own latents alone, and the whole one is in the run folder.

    Raises:
        ConfigError: the settings do not fit together, an argument is of another kind, a batch lacks a site, or the run
            folder holds another run.
        ShapeError: an SAE holds weights that are not finite, or only some of its latents; a batch has the wrong shape,
            is of another dtype or device than the first, holds NaN or infinite values or no variance; or the stream
            ends early.
        DivergedError: the loss is not finite. The last checkpoint stays.
        FormatError: the run folder cannot be read or written, or its newest checkpoint is damaged.
        WorldError: another process is gone, or does not answer in time. What one process raises, all do.
    """
    _require_kinds(batches, on_record, run, world)
    fittings = _fittings(sae, train, world)
    if run is None and not world.latents.alone:
        raise ConfigError(
            "Where latents are divided over processes, the whole SAE is written to a run folder: give run."
        )
    last = max(one.train.steps for one in fittings)
    folder = None if run is None else RunFolder(run, fittings, batches, world)
    with nullcontext() if folder is None else closing(folder), _kept_named(folder):
        done = 0 if folder is None else folder.steps_done
        stream: Iterator[object] = iter(batches)
        while done < last:
            batch = world.together(partial(_next, stream, done, fittings))
            for record in _advanced(fittings, batch):
                if folder:
                    folder.record(record)
                if on_record:
                    on_record(record)
            done += 1
            if folder and folder.after_step(last):
                break
        saes = _on_one_device([one.finish() for one in fittings], fittings)
        if folder and done == last:
            folder.finish(saes)
    return saes if isinstance(sae, Sequence) else saes[0]


def _on_one_device(saes: Sequence[SAE], fittings: Sequence[Fitting]) -> list[SAE]:
    """Those that a checkpoint gave back finished, on the CPU, moved to where the others were trained."""
    longest = max(fittings, key=lambda one: one.train.steps)  # if any was trained in this call, it was
    return [sae.to(saes[longest.number].W_dec.device) for sae in saes]


def _fittings(sae: object, train: object, world: World) -> list[Fitting]:
    given: list[SAEConfig | SAE] = _listed(sae, (SAEConfig, SAE), "sae")
    trains: list[TrainConfig] = _listed(train, (TrainConfig,), "train")
    if isinstance(train, TrainConfig):
        trains *= len(given)
    if not given or len(given) != len(trains):
        raise ConfigError(f"Each SAE has its TrainConfig, or all have one: got {len(given)} SAEs and {len(trains)}.")
    sizes = sorted({one.batch_tokens for one in trains})
    if len(sizes) > 1:
        raise ConfigError(f"SAEs that share a stream share its batches, so batch_tokens must be equal: got {sizes}.")
    return [Fitting(one, its, number, world) for number, (one, its) in enumerate(zip(given, trains, strict=True))]


@contextmanager
def _kept_named(folder: RunFolder | None) -> Iterator[None]:
    """Say which checkpoint is kept when a training cannot go on."""
    try:
        yield
    except (DivergedError, WorldError) as error:
        if folder is None or folder.saved is None:
            raise
        raise type(error)(f"{error} The last good checkpoint is {folder.saved}.") from error


def _advanced(fittings: Sequence[Fitting], batch: object) -> Iterator[TrainRecord]:
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


def _next(stream: Iterator[object], done: int, fittings: Sequence[Fitting]) -> object:
    try:
        return next(stream)
    except StopIteration:
        size, wanted = fittings[0].train.batch_tokens, max(one.train.total_tokens for one in fittings)
        raise ShapeError(ended_early(done * size, wanted, size)) from None


def _require_kinds(batches: object, on_record: object, run: object, world: object) -> None:
    """See that each argument is of its kind, before a file is touched."""
    require_iterable(batches)
    if on_record is not None and not callable(on_record):
        raise ConfigError(f"on_record must be a function that takes a TrainRecord, or None: got {on_record!r}.")
    if not isinstance(run, RunConfig | None):
        raise ConfigError(f"run must be a RunConfig or None, got {run!r}. A folder is given by RunConfig(folder).")
    if not isinstance(world, World):
        raise ConfigError(f"world must be a World, got {world!r}. World.from_env gives it; one process needs none.")


def _listed(given: object, kinds: tuple[type, ...], name: str) -> list[Any]:
    """One or several of a kind as a list.

    Raises:
        ConfigError: it is something else.
    """
    found: list[Any] = list(given) if isinstance(given, Sequence) else [given]
    for one in found:
        if not isinstance(one, kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise ConfigError(f"{name} must be of the kind {wanted}, or a list of such: got {type(one).__name__}.")
    return found
