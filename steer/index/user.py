"""``user.sqlite``: notes, tags and lists of whoever uses an index. Several processes may read and write it at once."""

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer.errors import DataError, OutputError
from steer.files import writing
from steer.index.layout import check_latent

_TABLES = """
CREATE TABLE notes (id INTEGER PRIMARY KEY, latent INTEGER NOT NULL, text TEXT NOT NULL,
                    at REAL NOT NULL);
CREATE TABLE tags (latent INTEGER NOT NULL, tag TEXT NOT NULL, PRIMARY KEY (latent, tag));
CREATE TABLE lists (name TEXT NOT NULL, place INTEGER NOT NULL, latent INTEGER NOT NULL,
                                  PRIMARY KEY (name, latent));
"""
_PATIENCE_S = 10.0  # that who reads or writes waits for another process


@dataclass(frozen=True)
class Note:
    """A remark about a latent."""

    id: int
    """Its number."""
    latent: int
    """What it is about."""
    text: str
    """What it says."""
    at: float
    """When it was written, in seconds since 1970."""


class UserNotes:
    """The user's own database beside an index, or elsewhere. It is made when something is first written."""

    def __init__(self, path: Path, d_sae: int) -> None:
        self.path = path
        self._d_sae = d_sae

    def add_note(self, latent: int, text: str) -> Note:
        """Write a note.

        Raises:
            DataError: there is no such latent, or the text is empty.
            OutputError: the database cannot be written to.
        """
        check_latent(latent, self._d_sae)
        at = time.time()
        with self._writing() as connection:
            made = connection.execute(
                "INSERT INTO notes (latent, text, at) VALUES (?, ?, ?)", (latent, _text(text), at)
            )
        return Note(int(made.lastrowid or 0), latent, text, at)

    def remove_note(self, note: int) -> None:
        """Remove a note by its number; one that is not there is no error."""
        with self._writing() as connection:
            connection.execute("DELETE FROM notes WHERE id = ?", (note,))

    def notes(self, latent: int | None = None) -> list[Note]:
        """Notes of a latent, or all, oldest first."""
        where, values = ("", ()) if latent is None else ("WHERE latent = ?", (latent,))
        return [Note(*row) for row in self._read(f"SELECT id, latent, text, at FROM notes {where} ORDER BY id", values)]

    def tag(self, latent: int, tag: str) -> None:
        """Put a tag on a latent.

        Raises:
            DataError: there is no such latent, or the tag is empty.
            OutputError: the database cannot be written to.
        """
        check_latent(latent, self._d_sae)
        with self._writing() as connection:
            connection.execute("INSERT OR IGNORE INTO tags VALUES (?, ?)", (latent, _text(tag)))

    def untag(self, latent: int, tag: str) -> None:
        """Take a tag off."""
        with self._writing() as connection:
            connection.execute("DELETE FROM tags WHERE latent = ? AND tag = ?", (latent, storable(tag)))

    def tags(self, latent: int | None = None) -> list[str]:
        """Tags of a latent, or all that are in use, in order of the alphabet."""
        where, values = ("", ()) if latent is None else ("WHERE latent = ?", (latent,))
        return [row[0] for row in self._read(f"SELECT DISTINCT tag FROM tags {where} ORDER BY tag", values)]

    def tagged(self, tag: str) -> list[int]:
        """Latents that have a tag."""
        return [row[0] for row in self._read("SELECT latent FROM tags WHERE tag = ? ORDER BY latent", (storable(tag),))]

    def add_to_list(self, name: str, latents: Sequence[int]) -> None:
        """Append latents to a list, which is made if need be; those in it stay where they are.

        Raises:
            DataError: there is no such latent, or the name is empty.
            OutputError: the database cannot be written to.
        """
        for latent in latents:
            check_latent(latent, self._d_sae)
        with self._writing() as connection:
            for latent in latents:
                connection.execute(
                    "INSERT OR IGNORE INTO lists SELECT ?1, coalesce(max(place) + 1, 0), ?2 FROM lists WHERE name = ?1",
                    (_text(name), latent),
                )

    def remove_list(self, name: str) -> None:
        """Remove a list; one that is not there is no error."""
        with self._writing() as connection:
            connection.execute("DELETE FROM lists WHERE name = ?", (storable(name),))

    def lists(self) -> list[str]:
        """Names of the lists."""
        return [row[0] for row in self._read("SELECT DISTINCT name FROM lists ORDER BY name")]

    def listed(self, name: str) -> list[int]:
        """Latents of a list in order; of one that is not there, none."""
        return [
            row[0] for row in self._read("SELECT latent FROM lists WHERE name = ? ORDER BY place", (storable(name),))
        ]

    def _read(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        if not self.path.exists():
            return []
        try:
            with closing(self._connected()) as connection:
                return connection.execute(query, tuple(values)).fetchall()
        except sqlite3.Error as error:
            if _held_by_another(error):
                raise DataError(self._held()) from error
            raise DataError(f"{self.path} cannot be read: {error}. Move it away to begin a new one.") from error

    def _connected(self) -> sqlite3.Connection:
        """A connection to the database that is there; who reads, too, may have to make the files that WAL needs."""
        uri = f"{self.path.absolute().as_uri()}?mode="
        try:
            connection = sqlite3.connect(f"{uri}rw", uri=True, timeout=_PATIENCE_S)
            connection.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.OperationalError as error:
            writable = os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK)
            if writable or _held_by_another(error):
                raise
            connection = sqlite3.connect(f"{uri}ro&immutable=1", uri=True)  # on a disk that cannot be written to
        return connection

    def _make(self) -> None:
        """Make the database with its tables, so that whoever sees it sees all of them."""
        if self.path.exists():
            return
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with writing(self.path):
            try:
                with closing(sqlite3.connect(temporary)) as connection:
                    connection.execute("PRAGMA journal_mode = WAL")
                    connection.executescript(_TABLES)
                with suppress(FileExistsError):  # another process was faster
                    os.link(temporary, self.path)
            finally:
                temporary.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            self._make()
            with closing(self._connected()) as connection, connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
        except sqlite3.Error as error:
            if _held_by_another(error):
                raise OutputError(self._held()) from error
            raise OutputError(f"{self.path} cannot be written: {error}. Choose another place for the notes.") from error

    def _held(self) -> str:
        return (
            f"Another process is writing to {self.path}, and has not finished within {_PATIENCE_S:g} seconds. Wait for "
            "it, then try again."
        )


def _held_by_another(error: sqlite3.Error) -> bool:
    """Whether the database is whole, and locked by another process."""
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest tells which lock
    return primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def storable(text: str) -> str:
    """A text that SQLite takes: half of a surrogate pair, which is no character, as JSON escapes it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _text(text: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"A note, a tag and the name of a list need a text, got {text!r}.")
    return storable(text)
