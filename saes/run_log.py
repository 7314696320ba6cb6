"""The log of a run: one line of JSON a record, in step with the checkpoints, also after a kill.

A checkpoint remembers how long the log was. What comes after that is cut off when the run goes on, since the next steps
write it again. If lines are missing (the file was cut off, removed or edited), the run goes on all the same, because
the log decides nothing that is trained; a line with the key ``note`` says so in the log itself.
"""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saes.checkpoints import writing

NOTE = "note"


class RunLog:
    """The open log of a run folder. Nothing is buffered.

    Raises:
        FormatError: from every method, where the file cannot be read or written.
    """

    def __init__(self, path: Path, expected_bytes: int, tokens: int) -> None:
        """Open the log of a run that goes on after ``tokens`` tokens, when it was ``expected_bytes`` long."""
        self.path = path
        with writing(path):
            found = path.read_bytes() if path.is_file() else b""
            lines = [line for line in found.split(b"\n")[:-1] if _is_of(line, tokens)]
            kept = b"".join(line + b"\n" for line in lines)
            self._file = path.open("ab", buffering=0)
        if not found.startswith(kept):
            self._cut(0)
            self._write(kept)
        elif kept != found:
            self._cut(len(kept))
        lost = f"Lines are missing above: after {tokens} tokens the log was {expected_bytes} bytes long"
        if len(kept) < expected_bytes and lost.encode() not in kept:
            self.append(
                {NOTE: f"{lost}, and {len(kept)} were there when the run was gone on with. It trains the same."}
            )

    def append(self, line: Mapping[str, Any]) -> None:
        """Write a line."""
        self._write((json.dumps(line) + "\n").encode())

    def to_disk(self) -> int:
        """Wait until all lines are on the disk; the length of the file."""
        with writing(self.path):
            os.fsync(self._file.fileno())
            return self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """No more lines come."""
        self._file.close()

    def _cut(self, length: int) -> None:
        with writing(self.path):
            self._file.truncate(length)

    def _write(self, data: bytes) -> None:
        with writing(self.path):
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, "only a part was written")


def _is_of(line: bytes, tokens: int) -> bool:
    """Whether a line is whole, and of a step within the first ``tokens`` tokens."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    there = row.get("tokens", 0) if isinstance(row, dict) else None
    return isinstance(there, int | float) and there <= tokens
