"""Folders that are either whole or absent, and say so: each holds a manifest with the digest of every file.

A folder is written under a temporary name, brought to the disk and renamed, so that a kill at any moment leaves the
earlier ones and at most a temporary folder. They are named after the step, and the newest is the last by name.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from saes.errors import FormatError

MANIFEST = "manifest.json"
PREFIX, TEMPORARY, DAMAGED = "step-", ".tmp-", "damaged-"
NAME = re.compile(PREFIX + r"\d{12,}")
Facts = dict[str, Any]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system refuses while the block writes to ``path`` into an error of ours.

    Raises:
        FormatError: no space, no permission, ...
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise FormatError(
            f"{path} cannot be written ({error}). Make room or mend that; what was saved before is whole."
        ) from error


@contextmanager
def new_checkpoint(folder: Path, step: int, known: Mapping[str, Facts] | None = None) -> Iterator[Path]:
    """A temporary folder to write a checkpoint's files to, which becomes ``folder/step-...`` when the block is done.

    ``known`` may be filled until then with the sizes and digests of files that other processes have written.

    Raises:
        FormatError: it cannot be written; then nothing of it is left.
    """
    path, temporary = folder / checkpoint_name(step), folder / f"{TEMPORARY}{step}-{os.getpid()}"
    with writing(path):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            files = sorted(one for one in temporary.rglob("*") if one.is_file())
            names = {one: one.relative_to(temporary).as_posix() for one in files}
            listed = {name: (known or {}).get(name) or facts_of(one) for one, name in names.items()}
            text = json.dumps({"files": listed, "sha256": _digest_of(listed)}, indent=2) + "\n"
            (temporary / MANIFEST).write_text(text, encoding="utf-8")
            for one in (*files, temporary / MANIFEST):
                shutil.copymode(temporary / MANIFEST, one)  # safetensors' can be read by nobody but their owner
                to_disk(one)
            for one in (*(each for each in temporary.rglob("*") if each.is_dir()), temporary):
                to_disk(one)
            os.rename(temporary, path)
            to_disk(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def checkpoint_name(step: int) -> str:
    """Its folder's name; they sort by the step."""
    return f"{PREFIX}{step:012d}"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first. What somebody else has put there, such as a copy, is none."""
    return sorted((one for one in folder.glob(f"{PREFIX}*") if NAME.fullmatch(one.name) and one.is_dir()), reverse=True)


def verify(path: Path, part: int = 0, parts: int = 1) -> None:
    """See that a checkpoint is as it was written; of several ``parts``, each looks at other files.

    Raises:
        FormatError: a file is missing, truncated or altered; it is named.
    """
    manifest = path / MANIFEST
    try:
        data = json.loads(manifest.read_text(encoding="utf-8"))
        listed, digest = data["files"], data["sha256"]
        facts = {path / name: (int(one["bytes"]), str(one["sha256"])) for name, one in listed.items()}
    except OSError as error:
        raise FormatError(f"{manifest} cannot be read ({error}). The checkpoint is not whole.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{manifest} has been altered or cut off: {error}.") from error
    if _digest_of(listed) != digest:
        raise FormatError(f"{manifest} has been altered: its digest is not that of its contents.")
    for file, (expected, sha256) in list(facts.items())[part::parts]:
        try:
            size = file.stat().st_size
            if size != expected:
                raise FormatError(f"{file} has been cut off or altered: {size} bytes, expected {expected}.")
            if digest_of_file(file) != sha256:
                raise FormatError(f"{file} has been altered: its SHA-256 is not the one in {MANIFEST}.")
        except OSError as error:
            raise FormatError(f"{file} cannot be read ({error}). The checkpoint is not whole.") from error


def set_aside(path: Path) -> None:
    """Take a damaged checkpoint out of the row, and keep it to be looked at."""
    with writing(path):
        aside = path.with_name(f"{DAMAGED}{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(path, aside)


def tidy(folder: Path, keep: int | None = None) -> None:
    """Remove what killed runs left, and with ``keep`` all checkpoints but the newest ``keep``."""
    with writing(folder):
        for old in checkpoints(folder)[keep:] if keep else []:
            os.rename(old, folder / f"{TEMPORARY}old-{old.name}")  # a kill while it is removed leaves no half of it
        for left in folder.glob(f"{TEMPORARY}*"):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()


def to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name != "posix":
        return  # other systems open no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def facts_of(path: Path) -> Facts:
    """Size and digest of a file."""
    return {"bytes": path.stat().st_size, "sha256": digest_of_file(path)}


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as ``sha256sum`` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(listed: Any) -> str:
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()
