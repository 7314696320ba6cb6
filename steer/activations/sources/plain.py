"""Plain text: blocks of lines with blank lines between them, a document a block. A position is a byte offset."""

from collections.abc import Iterator
from pathlib import Path

from steer.activations.sources.raw import line_at, opened
from steer.activations.sources.source import Columns, Document
from steer.errors import DataError


def read(path: Path, at: int, columns: Columns) -> Iterator[tuple[Document, int]]:
    """Documents from byte ``at``, each with the offset after it; plain text has no columns to choose from.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    block, start = b"", at
    with opened(path, at) as file:
        for line in file:
            at += len(line)
            if line.strip():
                block += line
            elif block:
                yield _text(block, path, start), at
                block = b""
            if not block:
                start = at
        if block:
            yield _text(block, path, start), at


def _text(block: bytes, path: Path, at: int) -> str:
    try:
        return block.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        line = line_at(path, at)
        raise DataError(f"{path}, block at line {line}: not UTF-8 ({error}). Convert the file to UTF-8.") from error
