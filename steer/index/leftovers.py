"""What a run that was killed, or came to nothing, leaves: files under temporary names, an empty folder."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from steer.files import writing
from steer.index.layout import COLUMNS, CORPUS, LATENTS, USER

BUILDING = "building"
_TEMPORARY = re.compile(r"\.(.+)\.\d+(?:-journal)?")  # as ``steer.files`` and SQLite name them


def is_temporary(path: Path) -> bool:
    """Whether a file has the name of one that was being written: the number of the process stands at its end."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_temporary(folder: Path) -> None:
    """Remove all such files of an index. Only while the folder is claimed: nobody else writes there then, but for the
    user's notes, whose files are left alone.

    Raises:
        OutputError: one cannot be removed.
    """
    with writing(folder):
        for part in (folder, *(folder / name for name in (CORPUS, LATENTS, COLUMNS, BUILDING))):
            for path in part.glob(".*"):
                if is_temporary(path) and not path.name.startswith(f".{USER}."):
                    path.unlink(missing_ok=True)


@contextmanager
def removed_if_empty(folder: Path) -> Iterator[None]:
    """Where the block fails, a folder that it has made goes again, unless something is in it."""
    there = folder.exists()
    try:
        yield
    except BaseException:
        if not there:
            with suppress(OSError):  # it is not empty, or was never made
                folder.rmdir()
        raise
