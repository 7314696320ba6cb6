"""One entrance to all sources."""

from pathlib import Path

from steer.activations.sources.hub import HubSource
from steer.activations.sources.local import local_source
from steer.activations.sources.source import COLUMNS, Columns, Source
from steer.errors import DataError

HUB = "hub:"


def open_source(where: str | Path, columns: Columns = COLUMNS) -> Source:
    """The source at a local path, or of a data set of the hub (``hub:OWNER/NAME``, its split ``train``).

    Local files are ``.txt`` (documents are blocks of lines between blank lines), ``.jsonl`` (a document a line), both
    also with ``.gz``, and ``.parquet`` (a document a row); of a folder, all such files in the order of their names.
    Only ``hub:`` ever goes to the network. ``HubSource`` takes other splits, subsets and revisions.

    Raises:
        DataError: there is no such file, or it is of no known kind.
    """
    if not isinstance(where, str | Path):
        raise DataError(f"Text is named by a path or hub:OWNER/NAME, got {type(where).__name__} {where!r}.")
    if isinstance(where, str) and where.startswith(HUB):
        return HubSource(where.removeprefix(HUB), columns=columns)
    return local_source(where, columns)
