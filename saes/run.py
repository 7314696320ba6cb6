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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load_file, save_file

from saes.checkpoints import checkpoints, new_checkpoint, set_aside, tidy, to_disk, verify, writing
from saes.errors import ConfigError, FormatError
from saes.fitting import Fitting, TrainRecord
from saes.formats import native
from saes.sae import SAE
from saes.tree import join, split

VERSION = 1
SETTINGS, LOG, LOCK, CHECKPOINTS = "run.json", "log.jsonl", ".lock", "checkpoints"
STATE, TENSORS = "state.json", "state.safetensors"


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
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"{name} must be a number of at least 0, or None: got {value!r}.")


class RunFolder:
    """An open run folder.

    Raises:
        ConfigError: it holds another run, or something else; or the stream cannot say where it stands.
        FormatError: it cannot be read or written, or its newest checkpoint is damaged.
    """

    def __init__(self, config: RunConfig, fittings: Sequence[Fitting], batches: Any) -> None:
        self.config, self.fittings, self.batches = config, fittings, batches
        self.folder = Path(config.folder)
        self.saved: Path | None = None
        """The newest good checkpoint."""
        self._newest: list[dict[str, Any]] = [{} for _ in fittings]
        """The newest line of the log for each SAE."""
        if not callable(getattr(batches, "state", None)) or not callable(getattr(batches, "restore", None)):
            raise ConfigError(
                f"A run can be gone on with only if its stream can: {type(batches).__name__} has no methods state() "
                "and restore(state). Give such a stream, or train without a run folder."
            )
        self._lock = self._locked()
        try:
            self._claim()
            log_bytes = self._resume()
            with writing(self.folder / LOG):
                self._log = (self.folder / LOG).open("ab", buffering=0)
                if self._log.tell() > log_bytes:
                    self._log.truncate(log_bytes)  # what the next steps will write again
        except BaseException:
            self._lock.close()
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
        stop = done >= last or bool(by_steps or by_seconds or asked)
        due = bool(config.save_every_steps and done % config.save_every_steps == 0)
        late = config.save_every_seconds is not None and now - self._saved_at >= config.save_every_seconds
        if stop or due or late:
            self.save()
        return stop

    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            FormatError: it cannot be written; then nothing of it is left.
        """
        with writing(self.folder / LOG):
            os.fsync(self._log.fileno())
        state = {
            "log_bytes": self._log.tell(),
            "newest": self._newest,
            "fittings": [one.state() for one in self.fittings],
            "stream": self.batches.state(),
            "random": torch.get_rng_state(),
        }
        data, tensors = split(state)
        folder = self.folder / CHECKPOINTS
        with new_checkpoint(folder, self.steps_done) as temporary:
            for name, contents in self._saes():
                for file, content in contents.items():
                    (temporary / name).mkdir(exist_ok=True)
                    (temporary / name / file).write_bytes(content)
            save_file(tensors, temporary / TENSORS)
            (temporary / STATE).write_text(json.dumps(data) + "\n", encoding="utf-8")
        tidy(folder, self.config.keep)
        self.saved = checkpoints(folder)[0]
        self._saved_at = time.perf_counter()

    def finish(self, saes: Sequence[SAE]) -> None:
        """Write the trained SAEs."""
        for fitting, sae in zip(self.fittings, saes, strict=True):
            native.save(sae, self.folder / self._name(fitting), torch.float32, self._summary(fitting))

    def close(self) -> None:
        """Close the log, and let other programs have the folder."""
        self._log.close()
        self._lock.close()

    def _saes(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        for one in self.fittings:
            config, weights = one.folded()
            yield f"sae-{one.number}", native.contents(config, weights, self._summary(one))

    def _name(self, fitting: Fitting) -> str:
        return self.config.names[fitting.number] if self.config.names else f"sae-{fitting.number}"

    def _summary(self, fitting: Fitting) -> dict[str, Any]:
        """What an SAE's config.json tells of its training."""
        steps, last = fitting.steps_done, self._newest[fitting.number]
        train = dataclasses.asdict(fitting.train)
        about = {name: value for name, value in self.config.about.items() if name not in train}
        return {
            "steps": steps,
            "tokens": steps * fitting.train.batch_tokens,
            **{name: last[name] for name in ("fvu", "l0", "dead_fraction") if name in last},
            **train,
            **({"about": about} if about else {}),
        }

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
        """Make the folder this run's, or see that it is."""
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
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
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
        folder = self.folder / CHECKPOINTS
        tidy(folder)
        for path in checkpoints(folder):
            try:
                verify(path)
            except FormatError as error:
                if not self.config.use_older:
                    raise FormatError(
                        f"{error} Pass use_older=True to go on from the newest good checkpoint, or remove {path}."
                    ) from error
                set_aside(path)
                continue
            log_bytes = self._restore(path)
            tidy(folder, self.config.keep)  # a kill may have come before this
            return log_bytes
        return 0

    def _restore(self, path: Path) -> int:
        with _reading(path):
            state = join(json.loads((path / STATE).read_text(encoding="utf-8")), load_file(path / TENSORS))
            folded = [load_file(path / f"sae-{one.number}" / native.WEIGHTS) for one in self.fittings]
        for one, its_state, weights in zip(self.fittings, state["fittings"], folded, strict=True):
            one.restore(its_state, weights)
        self.batches.restore(state["stream"])
        torch.set_rng_state(state["random"])
        self._newest = state["newest"]
        self.saved = path
        return int(state["log_bytes"])


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        raise FormatError(f"{path} cannot be read ({error}). It was written by another release.") from error


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
