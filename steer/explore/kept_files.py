"""Files that commands read. Their contents are kept, so that a recipe runs again where they have changed."""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from steer.errors import DataError
from steer.files import check_ordinary

MOST_BYTES = 2**26
"""Size of a file that a recipe keeps, at most."""


class KeptFiles:
    """Contents of files by the name they were asked for: as given, or else from the disk."""

    def __init__(self) -> None:
        self.read_now: dict[str, bytes] = {}
        """What the command that runs has read."""
        self._given: Mapping[str, bytes] | None = None

    @contextmanager
    def noting(self, given: Mapping[str, bytes] | None = None) -> Iterator[dict[str, bytes]]:
        """What is read in the block. With ``given`` files, as in a recipe, these are read, and the disk is not."""
        self.read_now, self._given = {}, given
        try:
            yield self.read_now
        finally:
            self._given = None

    def read(self, name: str) -> bytes:
        """The contents of a file.

        Raises:
            DataError: it cannot be read, or is too large to be kept.
        """
        if name not in self.read_now:
            if self._given is not None and name not in self._given:
                raise DataError(f"The recipe does not hold {name}, which is read here.")
            self.read_now[name] = self._given[name] if self._given is not None else _read(expanded(name))
        return self.read_now[name]

    @contextmanager
    def copied(self, names: Mapping[str, str]) -> Iterator[Path]:
        """A folder that lasts for the block, with copies of files: names in it by the names they are asked for."""
        contents = {copy: self.read(name) for name, copy in names.items()}
        with tempfile.TemporaryDirectory(prefix="steer-explore-") as folder:
            for copy, data in contents.items():
                try:
                    (Path(folder) / copy).write_bytes(data)
                except OSError as error:
                    raise DataError(f"{copy} cannot be copied to {folder}: {error.strerror or error}.") from error
            yield Path(folder)


def sha256(data: bytes) -> str:
    """The hash that contents are kept under."""
    return hashlib.sha256(data).hexdigest()


def expanded(name: str) -> Path:
    """The path that a name stands for, ``~`` being the home folder.

    Raises:
        DataError: it begins with ``~`` and the name of nobody.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise DataError(f"{name} cannot be found: {name.split('/')[0]} is nobody's home folder here.") from error


def _read(path: Path) -> bytes:
    try:
        check_ordinary(path)
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise DataError(f"{path} has {size:,} bytes; at most {MOST_BYTES:,} are kept in a recipe. Give less.")
        return path.read_bytes()
    except DataError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read: {reason}.") from error
