"""Where the lines of the training log go besides ``log.jsonl``: TensorBoard files, Weights & Biases."""

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from uuid import uuid4

from saes.fitting import TrainRecord
from steer.errors import MissingExtra
from steer.files import write_json
from steer.progress import Progress
from steer.training.config import TrainingConfig
from steer.training.folder import TENSORBOARD, WANDB_ID

FIGURES = ("loss", "fvu", "l0", "dead_fraction", "lr", "k", "tokens_per_second", "memory_mib")


@runtime_checkable
class Logger(Protocol):
    """Something that lines of the log go to."""

    name: str

    def log(self, record: TrainRecord) -> None:
        """One line."""
        ...

    def close(self) -> None:
        """No more lines come."""
        ...


class TensorBoardLogger:
    """Files for TensorBoard: a folder for each SAE, so that their curves lie over each other."""

    name = "TensorBoard"

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._writer: Any = _needed("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._folders = [folder / TENSORBOARD / name for name in names]
        self._writers: dict[int, Any] = {}

    def log(self, record: TrainRecord) -> None:
        """One line; the first one takes what a killed run has written beyond it out of the charts."""
        if record.sae not in self._writers:
            self._writers[record.sae] = self._writer(str(self._folders[record.sae]), purge_step=record.tokens)
        for name, value in _figures(record).items():
            self._writers[record.sae].add_scalar(name, value, record.tokens)

    def close(self) -> None:
        """Write what is left."""
        for writer in self._writers.values():
            writer.close()


class WandbLogger:
    """A run of Weights & Biases, whose own settings (WANDB_MODE, WANDB_API_KEY, ...) hold. Tokens are its steps."""

    name = "Weights & Biases"

    def __init__(self, folder: Path, names: Sequence[str], project: str, settings: dict[str, Any]) -> None:
        self._wandb: Any = _needed("wandb", "wandb")
        self._folder, self._names, self._project, self._settings = folder, names, project, settings
        self._run: Any = None

    def log(self, record: TrainRecord) -> None:
        """One line; the first one opens the run, or the one that was stopped."""
        self._run = self._run or self._wandb.init(
            project=self._project, name=self._folder.name, id=self._id(), resume="allow", dir=str(self._folder),
            config=self._settings,
        )  # fmt: skip
        prefix = f"{self._names[record.sae]}/" if len(self._names) > 1 else ""
        self._run.log({prefix + name: value for name, value in _figures(record).items()}, step=record.tokens)

    def close(self) -> None:
        """Send what is left."""
        if self._run:
            self._run.finish()

    def _id(self) -> str:
        """By which a run that was stopped is known again."""
        path = self._folder / WANDB_ID
        if not path.exists():
            write_json(path, {"id": uuid4().hex[:12]})
        return str(json.loads(path.read_text(encoding="utf-8"))["id"])


class Logging:
    """All loggers of a run. One that fails is left out from then on, with a note: it must not end the training."""

    def __init__(self, loggers: Sequence[Logger], progress: Progress) -> None:
        self._loggers, self._progress = list(loggers), progress

    def log(self, record: TrainRecord) -> None:
        """One line for all."""
        for logger in list(self._loggers):
            try:
                logger.log(record)
            except Exception as error:
                self._loggers.remove(logger)
                self._progress.note(f"nothing more is logged to {logger.name}: {type(error).__name__}: {error}")

    def close(self) -> None:
        """No more lines come."""
        for logger in self._loggers:
            try:
                logger.close()
            except Exception as error:
                self._progress.note(f"the end of the log did not reach {logger.name}: {type(error).__name__}: {error}")


def require_loggers(config: TrainingConfig) -> None:
    """See that the packages are there, before anything long begins.

    Raises:
        MissingExtra: one is not.
    """
    if config.tensorboard:
        _needed("torch.utils.tensorboard", "tensorboard")
    if config.wandb:
        _needed("wandb", "wandb")


def loggers_of(config: TrainingConfig, names: Sequence[str]) -> list[Logger]:
    """The loggers that the settings ask for; none writes before the first line."""
    folder, found = Path(config.out), list[Logger]()
    if config.tensorboard:
        found.append(TensorBoardLogger(folder, names))
    if config.wandb:
        found.append(WandbLogger(folder, names, config.wandb, config.deciding()))
    return found


def _figures(record: TrainRecord) -> dict[str, float]:
    found = {name: getattr(record, name) for name in FIGURES}
    return {name: value for name, value in found.items() if value is not None}


def _needed(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"--{package} needs the package {package}, which is not installed: pip install 'saesteer[logging]'."
        ) from error
