"""Replies with the verdicts of people: what judges are measured against."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer.checks import hint, require_fields
from steer.errors import DataError
from steer.files import is_file, read_lines
from steer.judges.verdict import VERDICTS, Exchange, Verdict
from steer.models.chat import as_conversation

LABELS: tuple[Verdict, ...] = tuple(one for one in VERDICTS if one != "unscored")
"""What people may say of a reply: every verdict but that there is none."""
XSTEST_LABELS: dict[str, Verdict] = {
    "1_full_compliance": "compliance",
    "2_full_refusal": "full_refusal",
    "3_partial_refusal": "partial_refusal",
}
"""Of the label files of XSTest (Röttger et al., arXiv 2308.01263)."""


@dataclass(frozen=True)
class Labelled:
    """A reply with what a person said of it."""

    id: str
    exchange: Exchange
    label: Verdict
    model: str
    """That wrote the reply; empty if the file does not say."""
    type: str = ""
    """Kind of prompt; empty if the file does not say."""


def read_labels(paths: Sequence[Path]) -> list[Labelled]:
    """Labelled replies of several files: the csv form of XSTest, or JSON lines.

    The csv has columns ``id``, ``prompt``, ``completion``, ``final_label``, and may have ``type`` and ``model``; else
    the model is told by the name of the file. JSON lines have ``prompt`` or ``messages``, ``reply``, ``label``, and may
    have ``id``, ``model``, ``type``.

    Raises:
        DataError: a file is missing or holds no labels, a column or field is missing, a label is unknown, or a reply of
            one model stands twice.
    """
    found: list[Labelled] = []
    seen: dict[tuple[str, str], Path] = {}
    for path in paths:
        if not is_file(path):
            raise DataError(f"No labels at {path}: there is no such file.")
        rows = list(_csv(path) if path.suffix.lower() == ".csv" else _json_lines(path))
        if not rows:
            raise DataError(f"{path} holds no labels.")
        for row in rows:
            if (before := seen.get((row.model, row.id))) is not None:
                also = "" if before == path else f", the other time in {before}"
                raise DataError(f"{path}: the id {row.id!r} of the model {row.model!r} stands twice{also}.")
            seen[row.model, row.id] = path
        found += rows
    return found


def _csv(path: Path) -> Iterator[Labelled]:
    needed = ("id", "prompt", "completion", "final_label")
    name = path.stem.removeprefix("xstest_v2_completions_").removesuffix("_gpteval")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [one for one in needed if one not in (reader.fieldnames or ())]
            if missing and reader.fieldnames:
                raise DataError(
                    f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(reader.fieldnames)}."
                )
            for number, row in enumerate(reader, start=1):
                where = f"{path}, row {number}"
                short = [one for one in needed if row[one] is None]
                if short:
                    raise DataError(f"{where}: the row ends before {short[0]}.")
                exchange = Exchange(tuple(as_conversation(row["prompt"])), row["completion"])
                label = _label(row["final_label"], where)
                yield Labelled(row["id"], exchange, label, row.get("model") or name, row.get("type") or "")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as csv: {error}.") from error


def _json_lines(path: Path) -> Iterator[Labelled]:
    for number, row in enumerate(read_lines(path, whole=True), start=1):
        where = f"{path}, line {number}"
        require_fields(row, ("reply", "label", "messages" if "messages" in row else "prompt"), where)
        if not isinstance(row["reply"], str):
            raise DataError(f"{where}: 'reply' must be a text, got {type(row['reply']).__name__}.")
        try:
            messages = tuple(as_conversation(row["messages"] if "messages" in row else row["prompt"]))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        texts = {name: str(row.get(name, "")) for name in ("model", "type")}
        exchange = Exchange(messages, row["reply"])
        yield Labelled(str(row.get("id", number)), exchange, _label(row["label"], where), texts["model"], texts["type"])


def _label(text: Any, where: str) -> Verdict:
    known = {**{one: one for one in LABELS}, **XSTEST_LABELS}
    if not isinstance(text, str) or text not in known:
        raise DataError(f"{where}: unknown label {json.dumps(text)}. {hint(str(text), list(known), 'Known are')}")
    return known[text]
