"""Local files: one, or all of a folder in the order of their names."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from steer.activations.sources import jsonl, parquet, plain
from steer.activations.sources.raw import contents_digest
from steer.activations.sources.source import COLUMNS, Columns, Document, Position, short_digest
from steer.errors import DataError

Reader = Callable[[Path, int, Columns], Iterator[tuple[Document, int]]]
READERS: dict[str, Reader] = {
    ".txt": plain.read,
    ".txt.gz": plain.read,
    ".jsonl": jsonl.read,
    ".jsonl.gz": jsonl.read,
    ".parquet": parquet.read,
}


@dataclass(frozen=True)
class FileSource:
    """Documents of local files, one file after another."""

    name: str
    """What it was opened from."""
    paths: tuple[Path, ...]
    """The files, in the order of reading."""
    columns: Columns = COLUMNS
    """Where in a row the document is."""

    def documents(self, start: Position | None = None) -> Iterator[tuple[Document, Position]]:
        """Each document with the position after it; see ``Source``."""
        first, at = (start["file"], start["at"]) if start else (0, 0)
        for number in range(first, len(self.paths)):
            path = self.paths[number]
            for document, after in READERS[kind_of(path)](path, at, self.columns):
                yield document, {"file": number, "at": after}
            at = 0

    def digest(self) -> str:
        """Hash of the files' contents and of the names of the columns. Reads all of them."""
        return short_digest([contents_digest(self.paths), self.columns])


def kind_of(path: Path) -> str:
    """The key of ``READERS`` that a file name ends in; empty where there is none."""
    return next((kind for kind in READERS if path.name.lower().endswith(kind)), "")


def local_source(where: str | Path, columns: Columns) -> FileSource:
    """The source of a file, or of the files of known kinds in a folder.

    Raises:
        DataError: there is no such file, it is of no known kind, or the folder holds none.
    """
    path = Path(where)
    kinds = ", ".join(READERS)
    if not str(where):
        raise DataError("Text is named by a path, got an empty one.")
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # a name that is too long, or holds what none can
        raise DataError(f"The text {str(where)[:200]!r} cannot be looked at: {error}.") from error
    if path.is_dir():
        paths = tuple(sorted(file for file in path.iterdir() if file.is_file() and kind_of(file)))
        if not paths:
            raise DataError(f"The folder {path} holds no text: no file in it ends in {kinds}.")
        return FileSource(str(where), paths, columns)
    if not path.is_file():
        raise DataError(f"No text at {path}: there is no such file. A data set of the hub is named hub:OWNER/NAME.")
    if not kind_of(path):
        raise DataError(f"{path} is of no known kind: expected a name that ends in {kinds}.")
    return FileSource(str(where), (path,), columns)
