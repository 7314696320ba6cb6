"""Files that are either whole or absent: JSON, JSON lines, and the check of an output folder."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from steer.errors import DataError, OutputError


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically: a reader sees the old file or the new one, never a part."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """The same for bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` as indented JSON, atomically. NaN and infinity are refused (they are not JSON)."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows to a JSON-lines file in one write, flushed to disk before the call returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    block = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with path.open("ab") as file:
        file.write(block.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON-lines file. A last line cut off by a kill is passed over.

    Raises:
        DataError: another line is not a JSON object.
    """
    lines = path.read_bytes().split(b"\n")  # bytes: U+2028 inside a string is no line break
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                return
            raise DataError(f"{path}, line {number}: not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: expected a JSON object, got {type(row).__name__}.")
        yield row


def check_output(folder: Path, overwrite: bool) -> None:
    """See whether ``folder`` can be written to, without touching it.

    Raises:
        OutputError: it is a file, cannot be created or written to, or is not empty and ``overwrite`` is not set.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file. Give a folder with --out.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise OutputError(f"The output folder {folder} is not empty. Choose another, or pass --overwrite.")
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"The output folder {folder} cannot be created: no permission to write to {nearest}.")


def clear_output(folder: Path, owned: Sequence[str]) -> None:
    """Create ``folder``, and remove the files of an earlier run (``owned``: paths in it) and only those.

    Folders that this leaves empty are removed too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in owned:
        (folder / name).unlink(missing_ok=True)
    for parent in {(folder / name).parent for name in owned} - {folder}:
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()
