"""``meta.sqlite``: labels of latents with who made them, and the words of their tokens, searched by FTS5.

The file is replaced whole when labels are added, so readers open it as immutable, take no locks, and never see half of
an import.
"""

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from steer.checks import require_whole
from steer.errors import DataError, OutputError
from steer.files import claimed, writing
from steer.index.layout import META
from steer.index.user import storable
from steer.index.words import by_parts, by_words, has_table, make_searchable, tokenizer_available

_TABLES = """
CREATE TABLE labels (id INTEGER PRIMARY KEY, latent INTEGER NOT NULL, text TEXT NOT NULL, made_by TEXT NOT NULL,
                     kind TEXT, raw TEXT, scores TEXT NOT NULL, more TEXT NOT NULL);
CREATE INDEX labels_by_latent ON labels (latent);
CREATE TABLE tokens (latent INTEGER PRIMARY KEY, words TEXT NOT NULL);
"""
_LONGEST_QUERY = 10_000  # characters; SQLite's own limit of a pattern is 50,000 bytes
NO_FTS5 = "SQLite has no FTS5 here: words are looked for as parts of texts, which is slower and ranks by their number."
BUILT_WITHOUT_FTS5 = (
    "The index was built where SQLite has no FTS5: words are looked for as parts of texts, which is slower and ranks "
    "by their number. Build it again here to search by FTS5."
)


@dataclass(frozen=True)
class Label:
    """What somebody says that a latent stands for."""

    latent: int
    """Its number."""
    text: str
    """The label."""
    made_by: str
    """Who made it: a model's name, or a person's."""
    kind: str | None = None
    """How it was made, such as ``oai_token-act-pair``; None: not known."""
    raw: str | None = None
    """The text as it came, where it was cleaned; None: it is ``text``."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Figures of how well it predicts, by the scorer's name."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """What else came with it, as JSON data."""


def write_meta(folder: Path, words: Iterable[tuple[int, str]]) -> None:
    """A new ``meta.sqlite`` without labels; ``words`` are each latent's tokens as text.

    Raises:
        OutputError: it cannot be written.
    """

    def fill(connection: sqlite3.Connection) -> None:
        connection.executescript(_TABLES)
        connection.executemany("INSERT INTO tokens VALUES (?, ?)", words)
        make_searchable(connection)

    _publish(folder, fill, fresh=True)


def _publish(folder: Path, edit: Callable[[sqlite3.Connection], None], fresh: bool = False) -> None:
    """Edit a copy of the file, then put it in its place."""
    path = folder / META
    temporary = path.with_name(f".{META}.{os.getpid()}")
    with writing(path):
        try:
            for left in folder.glob(f".{META}.*"):  # of one that was killed; the folder is claimed
                left.unlink(missing_ok=True)
            if not fresh:
                shutil.copyfile(path, temporary)
            with closing(sqlite3.connect(temporary)) as connection:
                with connection:
                    connection.execute("PRAGMA journal_mode = DELETE")  # no WAL: the file stands for itself
                    edit(connection)
                connection.execute("VACUUM")
            os.replace(temporary, path)
        except sqlite3.Error as error:
            raise OutputError(f"{path} cannot be written: {error}.") from error
        finally:
            for left in (temporary, Path(f"{temporary}-journal")):
                left.unlink(missing_ok=True)


class Labels:
    """Labels and words of an index, for reading and for adding to."""

    def __init__(self, folder: Path, d_sae: int, note: Callable[[str], None] | None = None) -> None:
        self._folder, self._d_sae, self._note = folder, d_sae, note
        self._open: tuple[tuple[int, int], sqlite3.Connection, bool] | None = None
        self._labelled: tuple[tuple[int, int], list[int]] | None = None
        self._lock = Lock()

    def of(self, latent: int) -> list[Label]:
        """Labels of a latent, in the order in which they were added."""
        return list(self._select("WHERE latent = ? ORDER BY id", (latent,)))

    def all(self) -> Iterator[Label]:
        """All labels, by latent."""
        return self._select("ORDER BY latent, id", ())

    def labelled(self) -> list[int]:
        """Latents that have a label."""
        with self._reading() as (connection, _):
            assert self._open is not None, "it is being read"
            if self._labelled is None or self._labelled[0] != self._open[0]:  # of 131,072 latents it takes 0.1 s
                rows = connection.execute("SELECT DISTINCT latent FROM labels ORDER BY latent")
                self._labelled = (self._open[0], [row[0] for row in rows])
            return self._labelled[1]

    def add(self, labels: Iterable[Label]) -> int:
        """Add labels, all or none; returns how many are new. What is there already is not added again.

        Raises:
            DataError: a latent is out of range, or a label has no text or nobody who made it.
            OutputError: the index cannot be written to, or another process adds labels.
        """
        rows = [_row(self._checked(label)) for label in labels]
        before = after = 0

        def insert(connection: sqlite3.Connection) -> None:
            nonlocal before, after
            before = connection.execute("SELECT count(*) FROM labels").fetchone()[0]
            connection.executemany(
                "INSERT INTO labels (latent, text, made_by, kind, raw, scores, more) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 "
                "WHERE NOT EXISTS (SELECT 1 FROM labels WHERE latent = ?1 AND text = ?2 AND made_by = ?3 "
                "AND kind IS ?4)",
                rows,
            )
            after = connection.execute("SELECT count(*) FROM labels").fetchone()[0]
            make_searchable(connection)

        if rows:
            with claimed(self._folder):
                _publish(self._folder, insert)
        return after - before

    def words(self, query: str, limit: int) -> list[tuple[int, float]]:
        """Latents whose labels or tokens hold words of ``query``, best first; see ``FeatureIndex.words``."""
        if len(query) > _LONGEST_QUERY:
            raise DataError(f"Words of at most {_LONGEST_QUERY:,} characters can be looked for, got {len(query):,}.")
        query = storable(query).replace("\0", " ")  # which would end the pattern
        terms = re.findall(r"\w+", query)
        with self._reading() as (connection, searched):
            found: dict[int, float] = {}
            if searched and terms:
                found = by_words(connection, terms, 4 * limit)
            if not found and query.strip():
                found = by_parts(connection, terms or [query.strip()], limit)
        return sorted(found.items(), key=lambda one: (-one[1], one[0]))[:limit]

    def _select(self, where: str, values: tuple[Any, ...]) -> Iterator[Label]:
        with self._reading() as (connection, _):
            rows = connection.execute(
                f"SELECT latent, text, made_by, kind, raw, scores, more FROM labels {where}", values
            ).fetchall()
        return (Label(*row[:5], scores=json.loads(row[5]), more=json.loads(row[6])) for row in rows)

    @contextmanager
    def _reading(self) -> Iterator[tuple[sqlite3.Connection, bool]]:
        """The file's connection, and whether its words are searched by FTS5; opened anew where it was replaced.

        Raises:
            DataError: it is missing or damaged.
        """
        path = self._folder / META
        with self._lock:
            try:
                found = path.stat()
                stamp = (found.st_ino, found.st_mtime_ns)
                if self._open is None or self._open[0] != stamp:
                    self._open = (stamp, *self._opened(path))
                yield self._open[1:]
            except (OSError, sqlite3.Error) as error:
                raise DataError(f"{path} cannot be read: {error}. Copy the index again, or build it again.") from error

    def _opened(self, path: Path) -> tuple[sqlite3.Connection, bool]:
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        connection = sqlite3.connect(uri, uri=True, check_same_thread=False)  # one thread at a time, by our lock
        connection.execute("SELECT count(*) FROM sqlite_master")  # a damaged file shows now
        searched = tokenizer_available() and has_table(connection, "label_words")
        if not searched and self._note:
            self._note(BUILT_WITHOUT_FTS5 if tokenizer_available() else NO_FTS5)
        return connection, searched

    def _checked(self, label: Label) -> Label:
        require_whole("A label's latent", label.latent, DataError, least=0)
        if label.latent >= self._d_sae:
            raise DataError(
                f"A label is of latent {label.latent}, but the index has {self._d_sae} latents. Give labels of its SAE."
            )
        for name, value in (("text", label.text), ("made_by", label.made_by)):
            if not isinstance(value, str) or not value.strip():
                raise DataError(f"A label of latent {label.latent} needs a {name}, got {value!r}.")
        return label


def _row(label: Label) -> tuple[Any, ...]:
    scores, more = (json.dumps(dict(one), ensure_ascii=False) for one in (label.scores, label.more))
    texts = (label.text, label.made_by, label.kind, label.raw, scores, more)
    return (label.latent, *(text if text is None else storable(text) for text in texts))
