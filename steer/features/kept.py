"""What a search has measured already, line by line in a file: a search that is killed goes on from there.

The longest parts of a search are replies and the damage on neutral text. Each is known again by what it is of: the
prompt's or the texts' tokens, the latent and the value that it is clamped to. What else decides them (model, SAE, site,
lengths, ...) stands in the first line; where that differs the file is begun anew.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steer.digest import of_json
from steer.errors import DataError
from steer.evals.run_folder import cut_torn_line
from steer.files import append_lines, claimed, read_lines, remove, write_text

FILE = "measured.jsonl"
VERSION = 1  # of what is measured with the same settings; it counts up when results would be others
Clamped = tuple[int, float] | None
"""A latent and the raw value that it is clamped to; None: the model as it is."""


@dataclass(frozen=True)
class Kept:
    """Replies and damage that were measured before, and the file to which more are added as they are made.

    Raises:
        OutputError: the file cannot be written.
    """

    path: Path
    decides: Mapping[str, Any]
    """All that decides what is measured, but for prompts, texts and clamped values; as JSON data."""
    replies: dict[tuple[Clamped, str], list[int]] = field(init=False, default_factory=dict)
    """Token ids of replies, by clamp and digest of the prompt."""
    damage: dict[tuple[Clamped, str], tuple[float, float]] = field(init=False, default_factory=dict)
    """Divergence and loss in nats per token, by clamp and digest of the texts."""

    def __post_init__(self) -> None:
        head, rows = {"decides": of_json({"version": VERSION, **self.decides})}, self._rows()
        if rows[:1] != [head]:
            write_text(self.path, json.dumps(head) + "\n")
            return
        for row in rows[1:]:
            key = (None if row["clamp"] is None else (row["clamp"][0], row["clamp"][1])), row["of"]
            if "reply" in row:
                self.replies[key] = row["reply"]
            else:
                self.damage[key] = row["damage"][0], row["damage"][1]

    def add_replies(self, keys: Sequence[tuple[Clamped, str]], replies: Sequence[Sequence[int]]) -> None:
        """Keep replies.

        Raises:
            OutputError: the file cannot be written.
        """
        new = dict(zip(keys, map(list, replies), strict=True))
        self.replies.update(new)
        append_lines(self.path, [{"clamp": clamp, "of": of, "reply": ids} for (clamp, of), ids in new.items()])

    def add_damage(self, keys: Sequence[tuple[Clamped, str]], found: Sequence[tuple[float, float]]) -> None:
        """Keep damage.

        Raises:
            OutputError: the file cannot be written.
        """
        new = dict(zip(keys, found, strict=True))
        self.damage.update(new)
        append_lines(self.path, [{"clamp": clamp, "of": of, "damage": both} for (clamp, of), both in new.items()])

    def _rows(self) -> list[dict[str, Any]]:
        """The whole lines of the file, none if it is damaged or not there; a line cut off by a kill is taken out."""
        cut_torn_line(self.path)
        try:
            return list(read_lines(self.path, missing_ok=True))
        except DataError:
            return []


def of_tokens(rows: Sequence[Sequence[int]]) -> str:
    """What texts, or a prompt, are known again by: 32 digits of SHA-256 of their tokens."""
    return of_json([list(row) for row in rows])[:32]


@contextmanager
def beside(out: Path, decides: Mapping[str, Any]) -> Iterator[Kept]:
    """Keep what is measured in a folder beside the file ``out``, which the block is to write in the end.

    Then the folder is removed. If the block fails or is killed, what was measured stays.

    Raises:
        OutputError: the folder cannot be written to, or another run writes to it.
    """
    folder = out.with_name(f"{out.name}.measured")
    try:
        with claimed(folder):
            kept = Kept(folder / FILE, decides)
            try:
                yield kept
            except BaseException:
                if not kept.replies and not kept.damage:
                    remove(kept.path)
                raise
            remove(kept.path)
    finally:
        with suppress(OSError):  # it holds something
            folder.rmdir()
