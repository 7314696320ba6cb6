"""Parquet: a document a row. A position is a row number: whole row groups are passed over without being read."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from steer.activations.sources.extra import needed
from steer.activations.sources.source import Columns, Document, as_document, columns_of
from steer.errors import DataError

_ROWS = 256  # turned into Python objects at a time


def read(path: Path, at: int, columns: Columns) -> Iterator[tuple[Document, int]]:
    """Documents from row ``at``, each with the number of the row after it.

    Raises:
        DataError: pyarrow is missing, the file cannot be read, or has no usable column.
    """
    pyarrow, parquet = needed("pyarrow", "Parquet"), needed("pyarrow.parquet", "Parquet")
    try:
        with parquet.ParquetFile(path) as file:
            names = columns_of(file.schema_arrow.names, columns, str(path))
            row, groups = _groups_from(file.metadata, at)
            for batch in file.iter_batches(_ROWS, row_groups=groups, columns=names):
                skipped = min(max(at - row, 0), batch.num_rows)
                row += skipped
                for fields in batch.slice(skipped).to_pylist():
                    row += 1
                    document = as_document(fields, columns, partial("{}, row {}".format, path, row))
                    if document is not None:
                        yield document, row
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}).") from error


def _groups_from(metadata: Any, at: int) -> tuple[int, list[int]]:
    """The row groups that hold row ``at`` and those after it, and the first row of the first of them."""
    first = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if first + rows > at:
            return first, list(range(group, metadata.num_row_groups))
        first += rows
    return first, []
