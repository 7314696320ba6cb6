"""The batches of a run: opened from the settings, looked at before anything is written, and counted."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saes import SAE, World
from saes.batches import as_activations, ended_early
from saes.distributed.world import ONE
from saes.errors import ShapeError
from steer.activations.batch import Batch
from steer.activations.identity import revision
from steer.activations.manifest import MANIFEST, Manifest, read_manifest
from steer.activations.policy import TokenPolicy
from steer.activations.reading import Reading
from steer.activations.resumable import ActivationStream
from steer.activations.rows import Rules
from steer.activations.shard_source import ShardSource
from steer.activations.shards import ShardConfig, write_shards
from steer.activations.sources.hub import HubSource
from steer.activations.sources.local import FileSource, local_source
from steer.activations.sources.opened import HUB
from steer.activations.sources.source import Columns, Source
from steer.activations.text import embedded_corpus
from steer.errors import DataError
from steer.models.load import EMBEDDED, load_model, resolve_device
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.progress import Progress
from steer.threads import torch_threads
from steer.training.config import TrainingConfig
from steer.training.plan import Origin, Plan, all_sites, in_words, plan_of, policy_of, stream_config
from steer.training.start import load_starts, plan_from


class CountedStream:
    """Batches of an activation stream, that may be looked at before training, with an error where they end early."""

    def __init__(self, inner: ActivationStream | ShardSource, wanted: int) -> None:
        self.inner, self.batch_tokens = inner, inner.config.batch_tokens
        self._wanted, self._served = wanted, 0
        self._first: Batch | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            DataError: the text, or the folder, has ended; or it cannot be read.
        """
        batch, self._first = (self._first or self._next()), None
        self._served += self.batch_tokens
        return batch

    def peek(self, d_model: int) -> None:
        """See that there is a first batch and that it can be trained on. It is the first to come out all the same.

        Raises:
            DataError: there is none, or it cannot be read.
            ShapeError: it holds NaN or infinite values, or nothing but one and the same activation.
        """
        self._first = self._next()
        for site, x in self._first.items():
            try:
                rows = as_activations(x, d_model)
            except ShapeError as error:
                raise ShapeError(f"{site}: {error}") from error
            if (rows == rows[0]).all():
                shown = "zero" if not rows.any() else "equal"
                raise ShapeError(
                    f"All activations of the first batch at {site} are {shown}, so there is nothing to learn. Check "
                    "the site and the model's weights."
                )

    def state(self) -> dict[str, Any]:
        """Where the stream stands; see ``ActivationStream.state``."""
        return {"served": self._served, "stream": self.inner.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``state``; see ``ActivationStream.restore``."""
        self.inner.restore(state["stream"])
        self._first, self._served = None, state["served"]

    def close(self) -> None:
        """End the background thread."""
        self.inner.close()

    def _next(self) -> Batch:
        try:
            return next(self.inner)
        except StopIteration:
            there = self._served + self.inner.left_tokens
            raise DataError(ended_early(there, self._wanted, self.batch_tokens)) from None


@dataclass(frozen=True)
class Opened:
    """A run that can begin."""

    lm: LanguageModel | None
    """None: activations come from shards and no model was asked for."""
    source: Source | None
    reading: Reading | None
    plan: Plan
    origin: Origin
    stream: CountedStream


@contextmanager
def opened(config: TrainingConfig, progress: Progress, world: World = ONE, store: bool = True) -> Iterator[Opened]:
    """Load SAEs to go on from, and the model, and open the text, or the shards. The stream ends with the block.

    The processes of ``world`` share the passes of the model, and each gets whole batches. Where text and shards are
    given, activations are stored first unless they are there; without ``store`` the text is opened as if it were alone.

    Raises:
        ModelError: the model cannot be loaded.
        DataError: the text or the shards cannot be used, or an SAE does not belong to them.
        CheckpointError, SaesError: an SAE to go on from cannot be loaded.
        SiteError: the model lacks a site.
        OutputError: shards cannot be written.
    """
    starts = load_starts(config, progress)
    lm, stored = _model(config, progress), bool(config.shards) and (store or not config.stores)
    if stored and config.stores:
        _store(config, lm, progress, world, starts)
    run = _of_shards(config, lm, starts) if stored else _of_text(config, lm, world, starts)
    try:
        with torch_threads(None if run.lm is None else run.lm.model, config.threads):
            yield run
    finally:
        run.stream.close()


def open_text(config: TrainingConfig) -> Source:
    """The source of text that the settings name.

    Raises:
        DataError: there is no such text, or it is of no known kind.
    """
    columns = Columns(config.text_column, config.messages_column)
    if config.dataset:
        if config.offline:
            raise DataError(
                f"The data set {config.dataset} is read from the hub, and the network is not to be used (--offline). "
                "Give --text with files that you have."
            )
        name = config.dataset.removeprefix(HUB)
        return HubSource(name, config.subset, config.split, config.dataset_revision, columns)
    files = [local_source(where, columns) for where in config.text or (embedded_corpus(),)]
    if len(files) == 1:
        return files[0]
    return FileSource(", ".join(file.name for file in files), tuple(p for file in files for p in file.paths), columns)


def _model(config: TrainingConfig, progress: Progress) -> LanguageModel | None:
    if config.shards and config.model is None and not config.stores:
        return None
    name = config.model or EMBEDDED
    with progress.stage(f"loading {name}"):
        return load_model(name, config.device, config.dtype, config.revision, config.offline, progress.note)


def _store(
    config: TrainingConfig, lm: LanguageModel | None, progress: Progress, world: World, starts: tuple[SAE, ...]
) -> None:
    """Write the activations of the text that the run needs, or what is missing of them; that they fit shows later."""
    folder, seen = Path(config.shards or ""), 0
    if (folder / MANIFEST).exists():
        there = read_manifest(folder)
        if there.complete and (there.max_tokens is None or there.max_tokens >= config.total_tokens):
            return
    if not world.all.alone:
        raise DataError(
            f"Activations are stored by one process, and {folder} does not have them all. Run this once without "
            "torchrun (--stop-after-steps 1 is enough), or write_shards in Python."
        )

    def told(manifest: Manifest) -> None:
        nonlocal seen
        progress.advance(manifest.tokens - seen)
        seen = manifest.tokens

    run = _of_text(config, lm, world, starts)
    assert run.lm is not None and run.source is not None and run.reading is not None  # noqa: PT018
    with progress.stage("storing activations", total=config.total_tokens):
        limits = ShardConfig(max_tokens=config.total_tokens, ahead=config.ahead)
        write_shards(run.lm, run.source, run.reading, folder, limits, told)


def _of_text(config: TrainingConfig, lm: LanguageModel | None, world: World, starts: tuple[SAE, ...]) -> Opened:
    assert lm is not None  # None only with shards
    policy, source = policy_of(config), open_text(config)
    words = in_words(policy, Rules.of(policy, lm).context_size)
    origin = Origin(lm.d_model, (Site((lm.n_layers - 1) // 2),), lm.name, revision(lm), words)
    plan = plan_from(config, origin, starts) if starts else plan_of(config, origin)
    reading = Reading(all_sites(config, plan), policy, config.forward_tokens)
    for site in reading.all_sites:
        lm.layout.module(site)  # a site that is not there shows now
    inner = ActivationStream(lm, source, reading, stream_config(config), world)
    return Opened(lm, source, reading, plan, origin, CountedStream(inner, config.total_tokens))


def _of_shards(config: TrainingConfig, lm: LanguageModel | None, starts: tuple[SAE, ...]) -> Opened:
    """What was given of model and token policy must be what the shards were made with."""
    assert config.shards is not None
    manifest = read_manifest(Path(config.shards))
    stored = manifest.identity
    try:
        exclude_ids = tuple(stored["policy"]["exclude_ids"])
        policy, forward_tokens = (
            TokenPolicy(**{**stored["policy"], "exclude_ids": exclude_ids}),
            stored["forward_tokens"],
        )
        sites = tuple(map(Site.parse, stored["sites"]))
    except (KeyError, TypeError) as error:
        raise DataError(f"The manifest in {config.shards} does not say {error}. Write the shards again.") from error
    asked = config.model_fields_set & set(stored["policy"])
    given = replace(policy, **{name: getattr(config, name) for name in asked})
    words = in_words(policy, policy.context_size)
    origin = Origin(manifest.d_model, sites, manifest.model, manifest.revision, words)
    plan = plan_from(config, origin, starts) if starts else plan_of(config, origin)
    reading = Reading(all_sites(config, plan), given, forward_tokens)
    device = str(lm.device) if lm else resolve_device(config.device)
    source = open_text(config) if config.stores else None
    inner = ShardSource(config.shards, stream_config(config, device), lm, reading, source)
    return Opened(lm, None, reading, plan, origin, CountedStream(inner, config.total_tokens))
