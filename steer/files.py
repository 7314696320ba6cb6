"""Files that are whole or absent (JSON, JSON lines), files that a user names to be read, checks of output folders."""

import json
import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from steer.errors import DataError, OutputError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system refuses while the block writes to ``path`` into an error of ours.

    Raises:
        OutputError: no permission, no space, a folder where a file should be, a name that is too long, ...
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{path} cannot be written: {reason}. Mend that, or choose another folder.") from error


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically: a reader sees the old file or the new one, never a part.

    What is no text (half of a surrogate pair) is written as JSON escapes it.

    Raises:
        OutputError: see ``writing``.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, data: bytes) -> None:
    """The same for bytes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        if (
            path.exists() and not path.is_file() and not path.is_dir()
        ):  # root could put a file in the place of /dev/null
            raise OutputError(f"{path} is a device or a pipe, which cannot be replaced. Choose another file.")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` as indented JSON, atomically. NaN and infinity are refused (they are not JSON)."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """JSON data without NaN and infinity, which JSON lacks: None stands for them. Tuples become lists."""
    if isinstance(value, Mapping):
        return {str(name): finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows to a JSON-lines file in one write, flushed to disk before the call returns.

    Raises:
        OutputError: see ``writing``.
    """
    block = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(block.encode("utf-8", "backslashreplace"))  # half a surrogate pair: as JSON escapes it
            file.flush()
            os.fsync(file.fileno())


def remove(path: Path) -> None:
    """Remove a file, or a link itself, if it is there.

    Raises:
        OutputError: see ``writing``.
    """
    with writing(path):
        path.unlink(missing_ok=True)


def read_lines(path: Path, missing_ok: bool = False, whole: bool = False) -> Iterator[dict[str, Any]]:
    """Rows of a JSON-lines file; none if it is absent and ``missing_ok``. A last line cut off by a kill is passed over,
    unless the file must be ``whole``, as one that nobody appends to.

    Raises:
        DataError: the file cannot be read, or another line is not a JSON object.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        if missing_ok and isinstance(error, FileNotFoundError):
            return
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    for _, row in numbered_rows(data, path, whole):
        yield row


def numbered_rows(data: bytes, path: Path, whole: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of the JSON lines in ``data``, which stand in the file ``path``, each with the number of its line from 1.

    Raises:
        DataError: see ``read_lines``.
    """
    lines = data.split(b"\n")  # bytes: U+2028 inside a string is no line break
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines) and not whole:
                return
            raise DataError(f"{path}, line {number}: not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: expected a JSON object, got {type(row).__name__}.")
        yield number, row


def check_ordinary(path: Path) -> None:
    """Raise DataError where a device or a pipe is there, which may have no end; OSError where nothing is."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DataError(f"{path} cannot be read: it is a device or a pipe. Give a file.")


def read_ordinary(path: Path) -> bytes:
    """The contents of a file that a user names.

    Raises:
        DataError: it is not there, cannot be read, or is a device or a pipe.
    """
    try:
        check_ordinary(path)
        return path.read_bytes()
    except DataError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that cannot be one, since it is too long, is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_there(path: Path) -> bool:
    """Whether something has the name; a name that cannot be one is that of nothing."""
    try:
        return path.exists()
    except OSError:
        return False


LOCK = ".lock"  # in an output folder, while a run writes to it


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep other runs from writing to ``folder`` while the block runs; the folder is created if need be.

    The system takes the claim back when a process is killed, so none is ever left behind. The lock file is
    removed while it is held: whoever has opened it meanwhile sees that it is gone (``filelock`` since 3.21,
    ``saes.run_claim``).

    Raises:
        OutputError: another run writes to it, or see ``writing``.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise OutputError(f"Another run is writing to {folder}. Wait for it, or choose another folder.") from None
    try:
        yield
    finally:
        remove(folder / LOCK)
        lock.release()


def check_output(folder: Path, overwrite: bool, owned: Sequence[str] = ()) -> None:
    """See whether ``folder`` and the files ``owned`` in it can be written to, without touching anything.

    Raises:
        OutputError: it is a file, a link that leads nowhere or round in a circle, cannot be created or written to, is
            not empty and ``overwrite`` is not set, holds a folder where a file is needed or the other way round, or
            another run is writing to it.
    """
    with writing(folder):
        nearest = next(path for path in (folder, *folder.absolute().parents) if _exists(path))
        if not nearest.is_dir():
            raise OutputError(f"{nearest} is a file where a folder is needed. Choose another place.")
        if nearest == folder and any(one.name != LOCK for one in folder.iterdir()) and not overwrite:
            raise OutputError(f"The output folder {folder} is not empty. Choose another, or pass --overwrite.")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise OutputError(f"The output folder {folder} cannot be created: no permission to write to {nearest}.")
        for part in folder.absolute().relative_to(nearest.absolute()).parts:
            with suppress(FileNotFoundError):
                (nearest / part).lstat()  # a name that is too long shows now, not when the folder is made
        for name in owned:
            _check_place(folder, folder / name)
        if (folder / LOCK).exists():
            with claimed(folder):
                pass


def clear_output(folder: Path, owned: Sequence[str]) -> None:
    """Create ``folder``, and remove the files of an earlier run (``owned``: paths in it) and only those.

    What a killed run left half-written under a temporary name goes too, and folders that this leaves empty. A link is
    removed as a link: what it leads to is not ours.

    Raises:
        OutputError: see ``writing``.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    parents = {path.parent for path in (folder / name for name in owned)} - {folder}
    for name in owned:
        path = folder / name
        if path.parent in parents and path.parent.is_symlink():
            remove(path.parent)
        for old in (path, *path.parent.glob(f".{path.name}.*")):
            if old == path or old.suffix[1:].isdigit():  # the suffix is the number of the process
                remove(old)
    for parent in parents:
        if parent.is_dir() and not any(parent.iterdir()):
            with writing(parent):
                parent.rmdir()


def _exists(path: Path) -> bool:
    """Like ``Path.exists``, but a path that cannot be looked at raises OSError, and a dead link OutputError."""
    try:
        path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise OutputError(f"{path} is a link that leads nowhere. Remove it, or choose another folder.") from None
        return False
    return True


def _check_place(folder: Path, path: Path) -> None:
    """Whether ``path``, at most one folder below ``folder``, can be written as a file."""
    parent = path.parent
    if parent != folder and parent.is_symlink():
        return  # ``clear_output`` removes the link
    if parent != folder and _exists(parent):
        if not parent.is_dir():
            raise OutputError(f"{parent} is a file where a folder is needed. Remove it, or choose another folder.")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise OutputError(f"No permission to write to {parent}. Choose another folder.")
    if not path.is_symlink() and _exists(path) and path.is_dir():
        raise OutputError(f"{path} is a folder where a file is needed. Remove it, or choose another folder.")
