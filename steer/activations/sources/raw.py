"""Bytes of a local file, packed with gzip or not, read in pieces that end at a line break."""

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

from steer.errors import DataError


@contextmanager
def opened(path: Path, at: int) -> Iterator[BufferedIOBase]:
    """The file from byte ``at`` of its contents; for ``.gz``, whatever comes before is unpacked and passed over.

    Raises:
        DataError: it cannot be opened, or, in the block, cannot be read on (an archive that is cut off or
            damaged, for example).
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            file.seek(at)
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def line_at(path: Path, at: int) -> int:
    """Number, from 1, of the line that begins at byte ``at``; counted only when an error has to name it."""
    with opened(path, 0) as file:
        return 1 + sum(1 for _ in _until(file, at))


def _until(file: BufferedIOBase, at: int) -> Iterator[bytes]:
    while file.tell() < at and (line := file.readline()):
        yield line


def contents_digest(paths: Iterable[Path]) -> str:
    """Hash of the contents of files, in order; their names and places do not count.

    Raises:
        DataError: a file cannot be read.
    """
    found = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    return found.hexdigest()
