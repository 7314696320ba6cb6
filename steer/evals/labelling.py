"""Labelling replies of one's own run by hand: which are shown, in which order, and where the labels are kept."""

import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer.checks import require_fields, seen_twice
from steer.errors import DataError
from steer.evals.refusing import SCORING
from steer.evals.run_folder import RUN, RunFolder
from steer.files import is_file, read_lines, write_text
from steer.judges.labels import LABELS
from steer.judges.verdict import VERDICTS, Exchange, Verdict
from steer.models.chat import as_conversation

COMPLETIONS, LABELS_FILE = "completions.jsonl", "labels.jsonl"
_JUDGED = ("messages", "reply", "verdict", "value")
_REFUSALS = ("refusal", *(one for one in VERDICTS if one != "unscored"))
"""Verdicts of refusal tasks; ``refusal`` is full or partial."""


@dataclass(frozen=True)
class Reply:
    """A reply of a run, with the verdict of the run's judge."""

    id: str
    exchange: Exchange
    verdict: str
    fields: Mapping[str, str]
    """What else the run tells of it: arm, strength, set, ..."""


def read_replies(run: Path, where: Mapping[str, str] | None = None) -> list[Reply]:
    """The replies of a run whose sets are judged by refusal, and whose fields are as ``where`` says.

    A run is a folder with ``completions.jsonl``, as the demo writes it, or one of an evaluation
    (``steer.evals.run_folder``). Sets with a verdict that is not of refusal tasks (``correct``, ``wrong``) are left
    out, and so are unscored replies.

    Raises:
        DataError: the run has no completions, a line is malformed or stands twice, or none is left.
    """
    if is_file(run / COMPLETIONS):
        replies = _of_lines(run / COMPLETIONS)
    elif is_file(run / RUN):
        replies = _of_evaluation(RunFolder(run))
    else:
        raise DataError(f"{run} holds no {COMPLETIONS}: give a folder that a run has written, such as steer demo's.")
    found = [one for one in replies if one.verdict in _REFUSALS]
    for name, value in (where or {}).items():
        values = sorted({one.fields[name] for one in found if name in one.fields})
        found = [one for one in found if one.fields.get(name) == value]
        if not found:
            known = f"Its values are {', '.join(values)}." if values else "The run has no such field."
            raise DataError(f"No reply of {run} has {name} = {value}. {known}")
    if not found:
        raise DataError(f"{run} holds no replies that were judged by refusal.")
    if twice := seen_twice(one.id for one in found):
        raise DataError(f"{run}: the reply {twice[0]!r} stands twice.")
    return found


def _of_lines(path: Path) -> list[Reply]:
    replies = [_reply(row, f"{path}, line {number}") for number, row in enumerate(read_lines(path), start=1)]
    other = {one.fields.get("set") for one in replies if one.verdict not in (*_REFUSALS, "unscored")}
    return [one for one in replies if one.fields.get("set") not in other]


def _of_evaluation(folder: RunFolder) -> list[Reply]:
    responder = str(folder.run().get("responder", ""))
    found = []
    for task in folder.tasks():
        if folder.task_settings(task).get("settings", {}).get("scoring") != SCORING:
            continue
        completions, scores = folder.completions(task), folder.scores(task)
        for sample in folder.samples(task):
            if sample.id in completions and sample.id in scores:
                fields = {"responder": responder, "task": task, "set": sample.set, "id": sample.id}
                exchange = Exchange(sample.messages, completions[sample.id].text)
                found.append(Reply(f"{task}/{sample.id}", exchange, scores[sample.id].verdict, fields))
    return found


def _reply(row: dict[str, Any], where: str) -> Reply:
    require_fields(row, ("messages", "reply", "verdict"), where)
    if not isinstance(row["reply"], str) or not isinstance(row["verdict"], str):
        raise DataError(f"{where}: reply and verdict must be texts.")
    fields = {name: str(value) for name, value in row.items() if name not in _JUDGED}
    try:
        messages = tuple(as_conversation(row["messages"]))
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    return Reply("/".join(fields.values()) or where, Exchange(messages, row["reply"]), row["verdict"], fields)


def strata(replies: Sequence[Reply]) -> dict[str, list[Reply]]:
    """Replies by the verdict of the run's judge, verdicts in alphabetical order."""
    found: dict[str, list[Reply]] = defaultdict(list)
    for one in replies:
        found[one.verdict].append(one)
    return dict(sorted(found.items()))


def chosen(replies: Sequence[Reply], n: int, seed: int = 0) -> list[Reply]:
    """``n`` replies (or all) drawn at random within each verdict, in an order that tells nothing.

    Half of them are spread evenly over the verdicts, so that the rare ones are seen, half as the replies are. The same
    replies, n and seed give the same ones in the same order.
    """
    groups = strata(replies)
    shares = {name: n / 2 / len(groups) + n / 2 * len(group) / len(replies) for name, group in groups.items()}
    counts = {name: min(len(group), int(shares[name])) for name, group in groups.items()}
    while sum(counts.values()) < min(n, len(replies)):
        open_ = [name for name, group in groups.items() if counts[name] < len(group)]
        counts[max(open_, key=lambda name: shares[name] - counts[name])] += 1
    draw = random.Random(seed)
    picked = [one for name, group in groups.items() for one in draw.sample(group, counts[name])]
    draw.shuffle(picked)
    return picked


class LabelFile:
    """The labels of a run, in its folder; written whole and atomically after every change.

    Raises:
        DataError: the file that is there holds something else.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / LABELS_FILE
        self.rows: list[dict[str, Any]] = list(read_lines(self.path, missing_ok=True))
        for number, row in enumerate(self.rows, start=1):
            if not isinstance(row.get("id"), str) or row.get("label") not in LABELS:
                raise DataError(f"{self.path}, line {number}: no label of a reply. Move the file away to begin anew.")

    @property
    def labels(self) -> dict[str, Verdict]:
        """Label by id of the reply."""
        return {row["id"]: row["label"] for row in self.rows}

    def add(self, reply: Reply, label: Verdict) -> None:
        """Keep a label; the judge's verdict is not written beside it, so that the file can be shown to others."""
        fields = reply.fields
        model = " ".join(fields[name] for name in ("arm", "strength", "responder") if name in fields)
        messages, text = list(reply.exchange.messages), reply.exchange.reply
        row = {"id": reply.id, "messages": messages, "reply": text, "label": label, "model": model}
        self.rows.append({**row, "type": fields.get("set", "")})
        self._write()

    def undo(self) -> str | None:
        """Take the last label back; the id of its reply, or None if there is none."""
        if not self.rows:
            return None
        row = self.rows.pop()
        self._write()
        return str(row["id"])

    def _write(self) -> None:
        write_text(self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows))
