"""The run folder of ``steer tune``: whose it is, its checkpoints, its log, and the adapter at the end."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from saes.checkpoints import TEMPORARY, checkpoints, new_checkpoint, set_aside, tidy, to_disk, verify
from saes.errors import FormatError
from saes.run_claim import difference
from saes.run_config import CHECKPOINTS, LOG, SETTINGS
from steer.errors import DataError, OutputError
from steer.files import append_lines, check_output, read_lines, remove, write_json, write_text, writing

FORMAT, VERSION = "steer-tuning", 1
ADAPTER = "adapter"
OWN = {SETTINGS, LOG, CHECKPOINTS, ADAPTER}


def settings_in(folder: Path) -> dict[str, Any] | None:
    """The settings of the run in a folder; None: there is none.

    Raises:
        OutputError: ``run.json`` cannot be read, or is that of something else.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(f"{path} cannot be read ({error}). Choose another folder.") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("settings"), dict):
        raise OutputError(f"{path} is not of a run of `steer tune`. Choose another folder.")
    return dict(found["settings"])


def check_folder(folder: Path, overwrite: bool) -> None:
    """See whether a run can be kept in a folder, without touching anything.

    Raises:
        OutputError: it holds something else, or cannot be written to.
    """
    check_output(folder, overwrite=True)
    there = settings_in(folder) is not None
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.is_dir() else set()
    others = sorted(names - OWN if there else names)
    if others and (overwrite or not there):
        raise OutputError(
            f"{folder} holds what no run of `steer tune` has written: {', '.join(others[:5])}. Choose another folder."
        )


def check_settings(folder: Path, asked: Mapping[str, Any]) -> None:
    """See that the run in a folder is the one that is asked for.

    Raises:
        OutputError: its settings are others; the first that differs is named.
    """
    different = difference(settings_in(folder), json.loads(json.dumps(asked)))
    if different:
        name, theirs, ours = different
        raise OutputError(
            f"{folder} holds a run with other settings: {name} is {json.dumps(theirs)} there, but {json.dumps(ours)} "
            "was asked for. Go on with the same settings, choose another folder, or begin anew with --overwrite."
        )


def begin(folder: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Make a folder this run's; ``overwrite`` removes the run that is there, its settings last."""
    if overwrite and folder.is_dir():
        with writing(folder):
            for name in (CHECKPOINTS, ADAPTER):
                shutil.rmtree(folder / name, ignore_errors=not (folder / name).exists())
        for name in (LOG, SETTINGS):
            remove(folder / name)
    if settings_in(folder) is None:
        write_json(folder / SETTINGS, {"format": FORMAT, "version": VERSION, "settings": dict(settings)})
    with writing(folder):
        (folder / CHECKPOINTS).mkdir(exist_ok=True)
        for left in folder.glob(f"{TEMPORARY}*"):
            shutil.rmtree(left)
    tidy(folder / CHECKPOINTS)


def newest(folder: Path, note: Callable[[str], None]) -> Path | None:
    """The newest checkpoint of a run that is whole; damaged ones are set aside, and ``note`` is told.

    Raises:
        OutputError: there are checkpoints, and all are damaged.
    """
    found = checkpoints(folder / CHECKPOINTS)
    for path in found:
        try:
            verify(path)
            return path
        except FormatError as error:
            note(f"{error} It is set aside, and an older checkpoint is gone on from.")
            set_aside(path)
    if found:
        raise OutputError(f"All checkpoints in {folder} are damaged. Begin anew with --overwrite.")
    return None


def resumed_from(given: Path, asked: Mapping[str, Any], note: Callable[[str], None]) -> Path:
    """The checkpoint that is meant by a checkpoint's folder, or by the run folder that holds it.

    Raises:
        OutputError: there is none, it is damaged, or its run has other settings.
    """
    run = given if settings_in(given) is not None else given.parent.parent
    if settings_in(run) is None:
        raise OutputError(f"{given} is no checkpoint of a run of `steer tune`, and holds none.")
    check_settings(run, asked)
    if run != given:
        try:
            verify(given)
        except FormatError as error:
            raise OutputError(f"{error} Go on from another checkpoint.") from error
        return given
    path = newest(run, note)
    if path is None:
        raise OutputError(f"The run in {given} has no checkpoint yet.")
    return path


def save_checkpoint(folder: Path, step: int, write: Callable[[Path], None], keep: int) -> None:
    """Write a checkpoint, whole or not at all, and remove all but the newest ``keep``."""
    with new_checkpoint(folder / CHECKPOINTS, step) as temporary:
        write(temporary)
    tidy(folder / CHECKPOINTS, keep)


def finish(folder: Path, write: Callable[[Path], None]) -> Path:
    """Write the adapter, whole or not at all; one that is there was written by the same run, and stays."""
    path = folder / ADAPTER
    if not path.is_dir():
        temporary = folder / f"{TEMPORARY}{ADAPTER}-{os.getpid()}"
        with writing(path):
            try:
                temporary.mkdir()
                write(temporary)
                for file in (*temporary.iterdir(), temporary):
                    to_disk(file)
                temporary.rename(path)
                to_disk(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return path


def log_until(folder: Path, step: int) -> None:
    """Cut off the lines of the log that come after a step: what comes next writes them again."""
    path = folder / LOG
    lines = [line for line in read_log(folder) if line["step"] <= step]
    if path.exists():
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of the log; those that somebody else has put there are passed over."""
    try:
        return [line for line in read_lines(folder / LOG, missing_ok=True) if isinstance(line.get("step"), int)]
    except DataError:
        return []


def log(folder: Path, line: Mapping[str, Any]) -> None:
    """Write a line."""
    append_lines(folder / LOG, [dict(line)])
