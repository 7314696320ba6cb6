"""JSON lines: a document a line. A position is a byte offset, so going on costs nothing (``.gz``: unpacking again)."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from steer.activations.sources.raw import line_at, opened
from steer.activations.sources.source import Columns, Document, as_document
from steer.errors import DataError


def read(path: Path, at: int, columns: Columns) -> Iterator[tuple[Document, int]]:
    """Documents from byte ``at``, each with the offset after it.

    Raises:
        DataError: the file cannot be read, or a line is not a JSON object with a usable column.
    """
    with opened(path, at) as file:
        for line in file:
            document = _document(line, path, at, columns) if line.strip() else None
            at += len(line)
            if document is not None:
                yield document, at


def _document(line: bytes, path: Path, at: int, columns: Columns) -> Document | None:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{_where(path, at)}: cannot be read as JSON lines ({error}).") from error
    if not isinstance(row, dict):
        raise DataError(f"{_where(path, at)}: expected a JSON object, got {type(row).__name__}.")
    return as_document(row, columns, partial(_where, path, at))


def _where(path: Path, at: int) -> str:
    return f"{path}, line {line_at(path, at)}"
