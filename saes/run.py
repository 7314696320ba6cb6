"""A run folder: what ``saes.fit`` needs to go on exactly where it stopped, and the log of the training.

run.json                  the settings of every SAE, and of what it is trained on, by which a folder is known again
log.jsonl                 one line a record
checkpoints/step-.../     the newest few; each with sae-0/, sae-1/, ... which ``saes.load`` reads, the rest of the
                          state, and a manifest with the digest of every file
sae-0/, sae-1/, ...       the trained SAEs, when the run is done (or under other names, if the config says so)

Here the folder is opened, gone on from, saved and finished. Whose it is, and its lock: ``run_claim``; the log:
``run_log``; what is in a checkpoint: ``snapshot``; that it is whole: ``checkpoints``.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, TypeVar

import torch

from saes.checkpoints import Facts, checkpoint_name, checkpoints, new_checkpoint, set_aside, tidy, verify, writing
from saes.distributed.reshard import write_whole
from saes.distributed.world import ONE, World
from saes.errors import ConfigError, FormatError
from saes.fitting import Fitting, TrainRecord
from saes.formats import native
from saes.run_claim import check_settings, claim, locked, settings_of
from saes.run_config import CHECKPOINTS, LOG, RunConfig
from saes.run_log import RunLog
from saes.sae import SAE
from saes.snapshot import LogState, read_parts, shards_of, summary, write_part

__all__ = ["RunFolder"]

T = TypeVar("T")


class RunFolder:
    """An open run folder.

    Raises:
        ConfigError: it holds another run, or something else; or the stream cannot say where it stands.
        FormatError: it cannot be read or written, or its newest checkpoint is damaged.
    """

    def __init__(self, config: RunConfig, fittings: Sequence[Fitting], batches: Any, world: World = ONE) -> None:
        self.config, self.fittings, self.batches, self.world = config, fittings, batches, world
        self.folder = Path(config.folder)
        if config.names and len(config.names) != len(fittings):
            raise ConfigError(f"names must name each SAE: got {len(config.names)} names for {len(fittings)} SAEs.")
        self.saved: Path | None = None
        """The newest good checkpoint."""
        self._newest: list[dict[str, Any]] = [{} for _ in fittings]
        """The newest line of the log for each SAE."""
        self._log: RunLog | None = None
        """The first process keeps it."""
        self._lock: IO[bytes] | None = None
        if not callable(getattr(batches, "state", None)) or not callable(getattr(batches, "restore", None)):
            raise ConfigError(
                f"A run can be gone on with only if its stream can: {type(batches).__name__} has no methods state() "
                "and restore(state). Give such a stream, or train without a run folder."
            )
        try:
            asked = settings_of(fittings, config.about)
            self._by_first(lambda: self._claim(asked))
            world.together(lambda: check_settings(self.folder, asked))
            log_bytes = self._resume()
            self._by_first(lambda: self._open_log(log_bytes))
        except BaseException:
            self.close()
            raise
        self._begun = self._saved_at = time.perf_counter()
        self._begun_at_step = self.steps_done

    @property
    def steps_done(self) -> int:
        """Steps made by the SAE that has made most."""
        return max(one.steps_done for one in self.fittings)

    def record(self, record: TrainRecord) -> None:
        """Write a line of the log."""
        self._newest[record.sae] = dataclasses.asdict(record)
        if self._log:
            self._log.append(self._newest[record.sae])

    def after_step(self, last: int) -> bool:
        """Save if it is time to; whether to stop here."""
        config, done, now = self.config, self.steps_done, time.perf_counter()
        by_steps = config.stop_after_steps and done - self._begun_at_step >= config.stop_after_steps
        by_seconds = config.stop_after_seconds is not None and now - self._begun >= config.stop_after_seconds
        asked = config.stop is not None and config.stop()
        late = config.save_every_seconds is not None and now - self._saved_at >= config.save_every_seconds
        if config.stop_after_seconds is not None or config.save_every_seconds is not None:
            by_seconds, late = self.world.all.from_first((by_seconds, late))  # whose clock counts
        if config.stop is not None:
            asked = bool(self.world.all.largest(asked))  # one that was told to stop, stops all
        stop = done >= last or bool(by_steps or by_seconds or asked)
        due = bool(config.save_every_steps and done % config.save_every_steps == 0)
        if stop or due or late:
            self.save()
        return stop

    def save(self) -> None:
        """Write a checkpoint, every process its part of it.

        Raises:
            FormatError: it cannot be written; then nothing of it is left.
        """
        world, log_bytes = self.world, self._log.to_disk() if self._log else 0
        folder, known = self.folder / CHECKPOINTS, dict[str, Facts]()
        with ExitStack() as stack:
            new = new_checkpoint(folder, self.steps_done, known)
            temporary = Path(world.all.from_first(self._by_first(lambda: str(stack.enter_context(new)))))
            stream = world.together(self.batches.state)
            facts = world.patiently(lambda: self._write(temporary, stream, log_bytes))
            for one in world.all.objects(facts):
                known.update(one)
            self._by_first(stack.close)
        self._by_first(lambda: tidy(folder, self.config.keep))
        self.saved = folder / checkpoint_name(self.steps_done)
        self._saved_at = time.perf_counter()

    def finish(self, saes: Sequence[SAE]) -> None:
        """Write the trained SAEs, each whole."""
        for fitting, sae in zip(self.fittings, saes, strict=True):
            self._by_first(lambda fitting=fitting, sae=sae: self._write_trained(fitting, sae))

    def close(self) -> None:
        """Close the log, and let other programs have the folder."""
        for one in (self._log, self._lock):
            if one:
                one.close()

    def _name(self, fitting: Fitting) -> str:
        return self.config.names[fitting.number] if self.config.names else f"sae-{fitting.number}"

    def _summary(self, fitting: Fitting) -> dict[str, Any]:
        """What an SAE's config.json tells of its training."""
        return summary(fitting, self._newest[fitting.number], self.config.about)

    def _by_first(self, work: Callable[[], T]) -> T | None:
        """Work for the first process alone, however long it takes; if it fails, all do."""
        return self.world.patiently(lambda: work() if self.world.rank == 0 else None)

    def _write(self, temporary: Path, stream: Any, log_bytes: int) -> dict[str, Facts]:
        log = LogState(log_bytes, self._newest)
        with writing(temporary):
            return write_part(temporary, self.fittings, stream, log, self.config.about, self.world)

    def _write_trained(self, fitting: Fitting, sae: SAE) -> None:
        whole = self.folder / self._name(fitting)
        if self.world.latents.alone:
            native.save(sae, whole, torch.float32, self._summary(fitting))
        else:
            assert self.saved is not None, "there is a checkpoint of the last step"
            write_whole(shards_of(self.saved / f"sae-{fitting.number}"), whole)

    def _claim(self, asked: Any) -> None:
        self._lock = locked(self.folder)
        claim(self.folder, asked)
        for one in self.fittings:
            place = self.folder / self._name(one)
            if place.exists() and not place.is_dir():
                raise ConfigError(
                    f"{place} is a file where a trained SAE is to lie. Remove it, or choose another folder."
                )

    def _open_log(self, log_bytes: int) -> None:
        tokens = self.steps_done * self.fittings[0].train.batch_tokens
        self._log = RunLog(self.folder / LOG, log_bytes, tokens)

    def _resume(self) -> int:
        """Put everything where the newest checkpoint says, if there is one; the length of the log at that time."""
        folder, world = self.folder / CHECKPOINTS, self.world
        self._by_first(lambda: tidy(folder))
        for name in world.all.from_first([path.name for path in checkpoints(folder)]):
            path = folder / name
            try:
                world.patiently(lambda path=path: verify(path, world.rank, world.size))
            except FormatError as error:
                if not self.config.use_older:
                    raise FormatError(
                        f"{error} Pass use_older=True (`--use-older`) to go on from the newest good checkpoint, or "
                        f"remove {path}."
                    ) from error
                self._by_first(lambda path=path: set_aside(path))
                continue
            read = lambda path=path: read_parts(path, self.fittings, self.batches, world)  # noqa: E731
            log: LogState = world.together(read)
            self._newest, self.saved = log.newest, path
            self._by_first(lambda: tidy(folder, self.config.keep))  # a kill may have come before this
            return log.bytes
        return 0
