"""Small texts in every kind of source, for the tests of activations."""

import gzip
import json
from pathlib import Path
from typing import Any

from steer.activations.sources.hub import HubSource
from steer.activations.sources.opened import open_source
from steer.activations.sources.source import Source

KINDS = ("txt", "jsonl", "jsonl.gz", "parquet", "folder", "hub")


def texts(count: int = 40) -> list[str]:
    """Different texts of different lengths."""
    return [f"Text {i}: " + f"word{i} " * (1 + i * 7 % 11) for i in range(count)]


def conversations(count: int = 30) -> list[list[dict[str, str]]]:
    """Different conversations of one or two rounds."""
    rounds = [
        [
            {"role": "user", "content": f"question {i}, {'say ' * (i % 4)}"},
            {"role": "assistant", "content": f"answer {i}{' yes' * (i % 5)}"},
        ]
        for i in range(count)
    ]
    return [turns + rounds[0] if i % 3 == 0 else turns for i, turns in enumerate(rounds)]


def rows(form: str, count: int = 40) -> list[dict[str, Any]]:
    """Texts, or for ``chat`` conversations, as rows with another column beside them."""
    if form == "chat":
        return [{"number": i, "messages": turns} for i, turns in enumerate(conversations(count))]
    return [{"number": i, "text": text} for i, text in enumerate(texts(count))]


def write_lines(path: Path, data: list[dict[str, Any]]) -> None:
    """A JSON-lines file, packed if its name says so."""
    raw = "".join(json.dumps(row) + "\n" for row in data).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def write_parquet(path: Path, data: list[dict[str, Any]], group: int = 7) -> None:
    """A Parquet file of several row groups."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(data), path, row_group_size=group)


def source_of(kind: str, folder: Path, form: str = "packed", count: int = 40) -> Source:
    """A source of this kind with the rows of ``form``; plain text holds no conversations."""
    data = rows(form, count)
    if kind == "txt":
        (folder / "a.txt").write_text("\n\n \n".join(row["text"] for row in data), encoding="utf-8")
    elif kind in ("jsonl", "jsonl.gz"):
        write_lines(folder / f"a.{kind}", data)
    elif kind == "parquet":
        write_parquet(folder / "a.parquet", data)
    else:
        (folder / "set").mkdir()
        write_lines(folder / "set" / "train-0.jsonl", data[: count // 3])
        if kind == "hub":
            write_lines(folder / "set" / "train-1.jsonl", data[count // 3 :])
            return HubSource(str(folder / "set"))
        write_parquet(folder / "set" / "train-1.parquet", data[count // 3 :])
        return open_source(folder / "set")
    return open_source(folder / f"a.{kind}")
