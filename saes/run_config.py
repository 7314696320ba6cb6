"""Where a training run is kept, and when it is saved and stopped; the names of what lies in its folder."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saes.config import shortened
from saes.errors import ConfigError
from saes.paths import as_path

SETTINGS, LOG, LOCK, CHECKPOINTS = "run.json", "log.jsonl", ".lock", "checkpoints"
OWN = (SETTINGS, LOG, CHECKPOINTS)


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
        as_path(self.folder, "folder", ConfigError)
        self._check_times()
        if not isinstance(self.use_older, bool):
            raise ConfigError(f"use_older must be true or false, got {self.use_older!r}.")
        if self.stop is not None and not callable(self.stop):
            raise ConfigError(f"stop must be a function without arguments, or None: got {self.stop!r}.")
        if not isinstance(self.about, Mapping):
            raise ConfigError(f"about must be a dict of JSON data, got {self.about!r}.")
        try:
            json.dumps(dict(self.about), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"about must be JSON data without NaN or infinity ({error}). Give text or numbers."
            ) from error
        self._check_names()

    def _check_times(self) -> None:
        for name in ("save_every_steps", "stop_after_steps", "keep"):
            value = getattr(self, name)
            if value is None and name != "keep":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} must be a whole number of at least 1, got {shortened(value)}.")
        for name in ("save_every_seconds", "stop_after_seconds"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and 0 <= value <= sys.float_info.max):
                raise ConfigError(f"{name} must be a number of at least 0, or None: got {shortened(value)}.")

    def _check_names(self) -> None:
        plain = isinstance(self.names, tuple) and all(
            isinstance(one, str) and one and Path(one).name == one and one != ".." and "\0" not in one
            for one in self.names
        )
        if not plain or len(set(self.names)) < len(self.names) or set(self.names) & {*OWN, LOCK}:
            raise ConfigError(
                "names must be different names of folders in the run folder, as a tuple, and none of them "
                f"{', '.join(OWN)}: got {self.names!r}."
            )
