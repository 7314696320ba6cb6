"""One figure for each latent, by name: a file each, so that filters and sorts read nothing else."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from steer.errors import DataError
from steer.files import write_json
from steer.index.info import write_array
from steer.index.layout import COLUMNS
from steer.index.shards import mapped

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_NUMBERS = "fiub"  # kinds of numpy's types


class Columns(Mapping[str, np.ndarray]):
    """Columns of an index, each memory-mapped on first use; one that was written meanwhile is seen."""

    def __init__(self, folder: Path, d_sae: int) -> None:
        self._folder = folder / COLUMNS
        self._d_sae = d_sae
        self._names: tuple[int, list[str]] | None = None
        self._open: dict[str, tuple[tuple[int, int], np.ndarray]] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        """The column, of shape [d_sae].

        Raises:
            KeyError: there is no such column.
            DataError: its file is damaged.
        """
        path = self._folder / f"{name}.npy"
        try:
            found = path.stat() if _NAME.fullmatch(name) else None
        except OSError:
            found = None
        if found is None:
            raise KeyError(name)
        stamp = (found.st_ino, found.st_mtime_ns)
        kept = self._open.get(name)
        if kept is None or kept[0] != stamp:
            values = mapped(path)
            if values.shape != (self._d_sae,) or values.dtype.kind not in _NUMBERS:
                raise DataError(
                    f"{path} holds {values.dtype} of shape {values.shape}, expected numbers of ({self._d_sae},). Write "
                    "the column again."
                )
            kept = self._open[name] = (stamp, values)
        return kept[1]

    def __iter__(self) -> Iterator[str]:
        try:
            stamp = self._folder.stat().st_mtime_ns
        except OSError:
            return iter(())
        if self._names is None or self._names[0] != stamp:  # listing a folder takes longer than all the rest of a card
            found = sorted(path.stem for path in self._folder.glob("*.npy") if _NAME.fullmatch(path.stem))
            self._names = (stamp, found)
        return iter(self._names[1])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def made_by(self, name: str) -> dict[str, Any]:
        """Who made a column, and how.

        Raises:
            KeyError: there is no such column.
            DataError: what is written of it is damaged.
        """
        _ = self[name]
        path = self._folder / f"{name}.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}). Write the column again.") from error
        return found

    def add(self, name: str, values: np.ndarray, made_by: Mapping[str, Any]) -> None:
        """Write a column, or another in its place, atomically.

        Raises:
            DataError: the name or the shape cannot be one, or the values are no numbers.
            OutputError: the folder cannot be written to.
        """
        if not _NAME.fullmatch(name):
            raise DataError(
                f"A column's name is of small letters, digits and _, at most 64 of them: got {name[:80]!r}."
            )
        values = np.asarray(values)
        if values.shape != (self._d_sae,) or values.dtype.kind not in _NUMBERS:
            raise DataError(
                f"The column {name} needs a number for each of the {self._d_sae} latents, got {values.dtype} of shape "
                f"{values.shape}."
            )
        text = json.dumps(dict(made_by), ensure_ascii=False, allow_nan=False)  # what is no JSON shows before writing
        narrow = values.astype(np.float32) if values.dtype.kind == "f" else values
        self._names = None
        write_json(self._folder / f"{name}.json", json.loads(text))
        write_array(self._folder, f"{name}.npy", narrow)
