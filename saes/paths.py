"""Paths as they come from outside."""

import os
from pathlib import Path


def as_path(given: object, what: str, error: type[ValueError]) -> Path:
    """A path that a system can be asked about, whether or not anything is there.

    Raises:
        ValueError: ``error``: it is neither text nor a Path, is empty, or holds what no name of a file can.
    """
    if not isinstance(given, str | Path) or not str(given):
        raise error(f"{what} must be a path, as text or a Path, got {given!r}.")
    try:
        if "\0" in os.fsdecode(os.fsencode(given)):
            raise error(f"{what} must be a path, got {given!r}, and no name holds a zero byte.")
    except UnicodeEncodeError as cannot:
        raise error(f"{what} must be a path, got {given!r}, which is no text that names a file.") from cannot
    return Path(given)
