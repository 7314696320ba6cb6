"""A data set of the Hugging Face hub, streamed: read over the network as far as it is needed, and kept nowhere."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from steer.activations.sources.extra import needed
from steer.activations.sources.raw import contents_digest
from steer.activations.sources.source import COLUMNS, Columns, Document, Position, as_document, columns_of, short_digest
from steer.errors import DataError


@dataclass(frozen=True)
class HubSource:
    """Documents of one split. A position is the state of ``datasets``: going on reads part of one file again."""

    name: str
    """Id on the hub, OWNER/NAME, or a local folder laid out like one."""
    subset: str | None = None
    """Configuration of the data set, where it has several."""
    split: str = "train"
    """Which split."""
    revision: str | None = None
    """Commit, branch or tag; None: the newest commit at the time of opening, which is then kept to."""
    columns: Columns = COLUMNS
    """Where in a row the document is."""

    def documents(self, start: Position | None = None) -> Iterator[tuple[Document, Position]]:
        """Each document with the position after it; see ``Source``."""
        rows = self._rows()
        number = 0
        if start:
            number = start["row"]
            rows.load_state_dict(deepcopy(start["state"]))
        if rows.column_names is not None:
            columns_of(rows.column_names, self.columns, self.name)
        try:
            for fields in rows:
                number += 1
                document = as_document(fields, self.columns, partial("{}, row {}".format, self.name, number))
                if document is not None:
                    yield document, {"row": number, "state": rows.state_dict()}
        except DataError:
            raise
        except Exception as error:  # network, files and decoders below raise errors of many kinds
            raise DataError(f"{self.name} cannot be read on after row {number} ({_short(error)}).") from error

    def digest(self) -> str:
        """Hash of the data set's name, commit and split (the hub's commits do not change), or of a folder's files."""
        folder = Path(self.name)
        contents: list[object] = [self.name]
        if folder.is_dir():
            names = _files_in(folder)
            contents = [folder.name, names, contents_digest(folder / name for name in names)]
        return short_digest([*contents, self.commit, self.subset, self.split, self.columns])

    @cached_property
    def commit(self) -> str | None:
        """The commit that is read; None for a local folder.

        Raises:
            DataError: the hub does not give it.
        """
        if Path(self.name).is_dir():
            return None
        hub = needed("huggingface_hub", "a data set of the hub")
        try:
            return str(hub.HfApi().dataset_info(self.name, revision=self.revision).sha)
        except Exception as error:  # as above
            raise self._refused(error) from error

    def _rows(self) -> Any:
        datasets = needed("datasets", "a data set of the hub")
        commit = self.commit
        try:
            return datasets.load_dataset(self.name, self.subset, split=self.split, revision=commit, streaming=True)
        except Exception as error:  # as above
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> DataError:
        return DataError(
            f"The data set {self.name!r} (subset {self.subset}, split {self.split}) cannot be opened: {_short(error)}. "
            "Check the name, the network, and HF_TOKEN for gated data sets."
        )


def _files_in(folder: Path) -> list[str]:
    """Paths of the files below a folder; hidden ones, such as those of git, are no data."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
