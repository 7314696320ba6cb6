"""Word search in ``meta.sqlite``: whole words by FTS5's BM25, parts of words by FTS5's trigrams, else by looking."""

import re
import sqlite3
from contextlib import closing
from functools import cache

_WORDS = """
CREATE VIRTUAL TABLE label_words USING fts5(text, content='labels', content_rowid='id', tokenize='porter unicode61');
CREATE VIRTUAL TABLE token_words USING fts5(words, content='tokens', content_rowid='latent',
                                            tokenize='porter unicode61', detail='column');
"""
_PARTS = """
CREATE VIRTUAL TABLE label_parts USING fts5(text, content='labels', content_rowid='id', tokenize='trigram',
                                            detail='none', columnsize=0);
CREATE VIRTUAL TABLE token_parts USING fts5(words, content='tokens', content_rowid='latent', tokenize='trigram',
                                            detail='none', columnsize=0);
"""
_TABLES = (
    ("label_words", "porter unicode61", _WORDS),
    ("token_words", "porter unicode61", ""),
    ("label_parts", "trigram", _PARTS),
    ("token_parts", "trigram", ""),
)
_SOURCES = {"label": ("labels", "id", "text"), "token": ("tokens", "latent", "words")}
_LABEL_WEIGHT = 2.0  # a word in a label says more of a latent than one among its tokens
_RANKED_ROWS = 2500  # that BM25 is computed of: it takes about 2 microseconds a row, and four rankings at most are made
_GRAM = 3  # letters of a trigram; shorter parts are looked for in all rows


@cache
def tokenizer_available(tokenizer: str = "unicode61") -> bool:
    """Whether this SQLite has FTS5 with a tokenizer (``trigram``: since SQLite 3.34)."""
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.execute(f"CREATE VIRTUAL TABLE t USING fts5(a, tokenize='{tokenizer}')")
        except sqlite3.OperationalError:
            return False
    return True


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Whether the database has a table of that name."""
    found = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = ?", (name,))
    return bool(found.fetchone()[0])


def make_searchable(connection: sqlite3.Connection) -> None:
    """Make the tables that are searched, those that are missing and that this SQLite knows, and fill all anew."""
    for table, tokenizer, made in _TABLES:
        if not tokenizer_available(tokenizer):
            continue
        if made and not has_table(connection, table):
            connection.executescript(made)
        connection.execute(f"INSERT INTO {table} ({table}) VALUES ('rebuild')")


def by_words(connection: sqlite3.Connection, terms: list[str], limit: int) -> dict[int, float]:
    """Latents whose labels or tokens hold one of the words, with BM25 over both; a label's counts twice."""
    found: dict[int, float] = {}
    for label, score in _ranked(connection, "label", terms, limit).items():
        (latent,) = connection.execute("SELECT latent FROM labels WHERE id = ?", (label,)).fetchone()
        found[latent] = max(found.get(latent, 0.0), _LABEL_WEIGHT * score)
    for latent, score in _ranked(connection, "token", terms, limit).items():
        found[latent] = found.get(latent, 0.0) + score
    return found


def _ranked(connection: sqlite3.Connection, kind: str, terms: list[str], limit: int) -> dict[int, float]:
    """Rows of a table by BM25, of not many more than ``_RANKED_ROWS`` rows that hold a word.

    The rarest words that few enough rows hold are ranked together, then the rows that hold all words. A row that holds
    a common word alone is passed over: that hardly moves a rank (BM25's second factor), and to rank all takes long.
    """
    table = f"{kind}_words"
    counts = {
        term: connection.execute(f"SELECT count(*) FROM {table} WHERE {table} MATCH ?", (f'"{term}"',)).fetchone()[0]
        for term in dict.fromkeys(terms)
    }
    present = sorted((term for term, count in counts.items() if count), key=lambda term: counts[term])
    if not present:
        return {}
    rare, rows = present[:1], counts[present[0]]
    for term in present[1:]:
        if (rows := rows + counts[term]) > _RANKED_ROWS:
            break
        rare.append(term)
    found = _bm25(connection, table, " OR ".join(f'"{term}"' for term in rare), limit)
    if len(rare) < len(present):
        for row, score in _bm25(connection, table, " AND ".join(f'"{term}"' for term in present), limit).items():
            found[row] = max(found.get(row, 0.0), score)
    return found


def _bm25(connection: sqlite3.Connection, table: str, match: str, limit: int) -> dict[int, float]:
    """The best of the first ``_RANKED_ROWS`` rows that match."""
    rows = f"SELECT rowid, -rank AS score FROM {table} WHERE {table} MATCH ? LIMIT {_RANKED_ROWS}"
    return dict(connection.execute(f"SELECT rowid, score FROM ({rows}) ORDER BY score DESC LIMIT ?", (match, limit)))


def by_parts(connection: sqlite3.Connection, terms: list[str], limit: int) -> dict[int, float]:
    """Latents by how many of the terms are parts of a label (counted twice) or of the tokens.

    Of a single term, tokens are looked at only where labels do not make up ``limit``.
    """
    found: dict[int, float] = {}
    most = 4 * limit if len(terms) == 1 else -1  # rows of one term are all alike; those of several are to be counted
    for term in terms:
        hits = dict.fromkeys(_holding(connection, "label", term, most), _LABEL_WEIGHT)
        if len(terms) > 1 or len(hits) < limit:
            hits = dict.fromkeys(_holding(connection, "token", term, most), 1.0) | hits
        for latent, score in hits.items():
            found[latent] = found.get(latent, 0.0) + score
    return found


def _holding(connection: sqlite3.Connection, kind: str, term: str, most: int) -> list[int]:
    """Latents of the first rows that hold a term, capitals or not; those with all of its trigrams are looked at."""
    source, key, column = _SOURCES[kind]
    like = "%" + re.sub(r"([%_\\])", r"\\\1", term) + "%"
    condition, values = f"{column} LIKE ? ESCAPE '\\'", [like]
    parts = f"{kind}_parts"
    if len(term) >= _GRAM and tokenizer_available("trigram") and has_table(connection, parts):
        grams = dict.fromkeys(term[at : at + _GRAM].replace('"', '""') for at in range(len(term) - _GRAM + 1))
        source = f"{parts} JOIN {source} ON {source}.{key} = {parts}.rowid"
        condition = f"{parts} MATCH ? AND {_SOURCES[kind][0]}.{condition}"
        values = [" AND ".join(f'"{gram}"' for gram in grams), like]
        key = f"{parts}.rowid"
    query = f"SELECT latent FROM {source} WHERE {condition} ORDER BY {key} LIMIT ?"
    return [row[0] for row in connection.execute(query, (*values, most))]
