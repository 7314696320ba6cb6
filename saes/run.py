"""A run folder: what ``saes.fit`` needs to go on exactly where it stopped, and the log of the training.

run.json                  the settings of every SAE, and of what it is trained on, by which a folder is known again
log.jsonl                 one line a record
checkpoints/step-.../     the newest few; each with sae-0/, sae-1/, ... which ``saes.load`` reads, the rest of the
                          state, and a manifest with the digest of every file
sae-0/, sae-1/, ...       the trained SAEs, when the run is done (or under other names, if the config says so)
"""

import dataclasses
import errno
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import torch

from saes.checkpoints import (
    Facts,
    checkpoint_name,
    checkpoints,
    new_checkpoint,
    set_aside,
    tidy,
    to_disk,
    verify,
    writing,
)
from saes.distributed.reshard import write_whole
from saes.distributed.world import ONE, World
from saes.earlier import VERSION, as_today
from saes.errors import ConfigError, FormatError
from saes.fitting import Fitting, TrainRecord
from saes.formats import native
from saes.sae import SAE
from saes.snapshot import Log, read_parts, shards_of, summary, write_part

T = TypeVar("T")
SETTINGS, LOG, LOCK, CHECKPOINTS = "run.json", "log.jsonl", ".lock", "checkpoints"


@dataclass(frozen=True)
class RunConfig:
    """Where a training run is kept, and when. None of it changes what is trained."""

    folder: str | Path
    """The run folder. One that holds a run with the same settings is gone on with from its newest checkpoint."""
    save_every_steps: int | None = 1000
    """Steps between two checkpoints; None: they are not counted. There is always one at the end."""
    save_every_seconds: float | None = None
    """Seconds between two checkpoints, if that comes first; None: they are not counted."""
    keep: int = 2
    """Newest checkpoints to keep."""
    stop_after_steps: int | None = None
    """Steps of this call after which it saves and returns; None: it trains to the end."""
    stop_after_seconds: float | None = None
    """Seconds of this call after which it saves and returns, when the step is done; None: it trains to the end."""
    use_older: bool = False
    """If the newest checkpoint is damaged, set it aside and go on from the newest good one instead of refusing."""
    stop: Callable[[], bool] | None = None
    """Asked after every step; where it says true, it saves and returns."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What else decides what is trained (the model, the text, ...), as JSON data. It is kept with the settings: a
    folder with another is refused, and each SAE's training summary holds what its TrainConfig does not."""
    names: tuple[str, ...] = ()
    """Folders of the trained SAEs in the run folder, one for each; (): ``sae-0``, ``sae-1``, ..."""

    def __post_init__(self) -> None:
        for name, least in (("save_every_steps", 1), ("stop_after_steps", 1), ("keep", 1)):
            value = getattr(self, name)
            if value is None and name != "keep":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}.")
        for name in ("save_every_seconds", "stop_after_seconds"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 <= value < float("inf")):
                raise ConfigError(f"{name} must be a number of at least 0, or None: got {value!r}.")
        plain = all(isinstance(one, str) and one and Path(one).name == one for one in self.names)
        if not plain or len(set(self.names)) < len(self.names):
            raise ConfigError(f"names must be different names of folders in the run folder, got {self.names!r}.")


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
        self._log: IO[bytes] | None = None
        """The first process keeps it."""
        self._lock: IO[bytes] | None = None
        if not callable(getattr(batches, "state", None)) or not callable(getattr(batches, "restore", None)):
            raise ConfigError(
                f"A run can be gone on with only if its stream can: {type(batches).__name__} has no methods state() "
                "and restore(state). Give such a stream, or train without a run folder."
            )
        try:
            self._by_first(self._claim)
            world.together(self._check_settings)
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
        if not self._log:
            return
        with writing(self.folder / LOG):
            line = (json.dumps(self._newest[record.sae]) + "\n").encode()
            if self._log.write(line) != len(line):
                raise OSError(errno.ENOSPC, "only a part of a line was written")

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
        world, log_bytes = self.world, 0
        if self._log:
            with writing(self.folder / LOG):
                os.fsync(self._log.fileno())
                log_bytes = self._log.tell()
        folder, known = self.folder / CHECKPOINTS, dict[str, Facts]()
        with ExitStack() as stack:
            new = new_checkpoint(folder, self.steps_done, known)
            temporary = Path(world.all.from_first(self._by_first(lambda: str(stack.enter_context(new)))))
            facts = world.together(lambda: self._write(temporary, log_bytes))
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
        """Work for the first process alone; if it fails, all do."""
        return self.world.together(lambda: work() if self.world.rank == 0 else None)

    def _write(self, temporary: Path, log_bytes: int) -> dict[str, Facts]:
        log = Log(log_bytes, self._newest)
        with writing(temporary):
            return write_part(temporary, self.fittings, self.batches, log, self.config.about, self.world)

    def _write_trained(self, fitting: Fitting, sae: SAE) -> None:
        whole = self.folder / self._name(fitting)
        if self.world.latents.alone:
            native.save(sae, whole, torch.float32, self._summary(fitting))
        else:
            assert self.saved is not None, "there is a checkpoint of the last step"
            write_whole(shards_of(self.saved / f"sae-{fitting.number}"), whole)

    def _open_log(self, log_bytes: int) -> None:
        with writing(self.folder / LOG):
            self._log = (self.folder / LOG).open("ab", buffering=0)
            if self._log.tell() > log_bytes:
                self._log.truncate(log_bytes)  # what the next steps will write again

    def _locked(self) -> IO[bytes]:
        """Keep other programs from training here; the system opens the lock again when this one ends or is killed."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / LOCK).open("wb")
        try:
            import fcntl
        except ImportError:  # Windows has none
            return lock
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise FormatError(f"{self.folder / LOCK} cannot be locked ({error}). Choose another folder.") from error
            raise ConfigError(
                f"Another program is training in {self.folder}. Wait, or choose another folder."
            ) from None
        return lock

    def _claim(self) -> None:
        """Make the folder this run's, if it is nobody's."""
        self._lock = self._locked()
        path, asked = self.folder / SETTINGS, _settings(self.fittings, self.config.about)
        with writing(self.folder):
            if not path.exists():
                if any(not one.name.startswith(".") for one in self.folder.iterdir()):
                    raise ConfigError(
                        f"{self.folder} is not empty and holds no run ({SETTINGS}). Choose another folder."
                    )
                temporary = self.folder / f".{SETTINGS}.{os.getpid()}"
                temporary.write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8")
                to_disk(temporary)
                os.replace(temporary, path)
                to_disk(self.folder)

    def _check_settings(self) -> None:
        """See that the folder is this run's."""
        path, asked = self.folder / SETTINGS, _settings(self.fittings, self.config.about)
        try:
            there = as_today(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise FormatError(f"{path} cannot be read ({error}). Choose another folder.") from error
        if different := _difference(there, asked):
            place, theirs, ours = different
            raise ConfigError(
                f"{self.folder} holds a run with other settings: {place} is {theirs!r} there, and {ours!r} was asked "
                "for. Go on with the same settings, or choose another folder."
            )

    def _resume(self) -> int:
        """Put everything where the newest checkpoint says, if there is one; the length of the log at that time."""
        folder, world = self.folder / CHECKPOINTS, self.world
        self._by_first(lambda: tidy(folder))
        for name in world.all.from_first([path.name for path in checkpoints(folder)]):
            path = folder / name
            try:
                world.together(lambda path=path: verify(path, world.rank, world.size))
            except FormatError as error:
                if not self.config.use_older:
                    raise FormatError(
                        f"{error} Pass use_older=True (`--use-older`) to go on from the newest good checkpoint, or "
                        f"remove {path}."
                    ) from error
                self._by_first(lambda path=path: set_aside(path))
                continue
            read = lambda path=path: read_parts(path, self.fittings, self.batches, world)  # noqa: E731
            log: Log = world.together(read)
            self._newest, self.saved = log.newest, path
            self._by_first(lambda: tidy(folder, self.config.keep))  # a kill may have come before this
            return log.bytes
        return 0


def _settings(fittings: Sequence[Fitting], about: Mapping[str, Any]) -> Any:
    """The settings as JSON gives them back."""
    saes = [{"config": dataclasses.asdict(one.config), "train": dataclasses.asdict(one.train)} for one in fittings]
    known = {"format": "saes-run", "version": VERSION, **({"about": dict(about)} if about else {}), "saes": saes}
    return json.loads(json.dumps(known))


def _difference(there: Any, asked: Any, place: str = "") -> tuple[str, Any, Any] | None:
    """Where two trees differ first, and what is there in each."""
    if isinstance(there, Mapping) and isinstance(asked, Mapping):
        steps: Any = [(f"{place}.{key}".lstrip("."), there.get(key), asked.get(key)) for key in {**there, **asked}]
    elif isinstance(there, list) and isinstance(asked, list) and len(there) == len(asked):
        steps = [(f"{place}[{number}]", *pair) for number, pair in enumerate(zip(there, asked, strict=True))]
    else:
        return None if there == asked and type(there) is type(asked) else (place, there, asked)
    return next(filter(None, (_difference(a, b, where) for where, a, b in steps)), None)
