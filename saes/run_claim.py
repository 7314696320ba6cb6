"""Whose a run folder is: locked while somebody trains in it, and known again by the settings in ``run.json``."""

import dataclasses
import errno
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import IO, Any

from saes.checkpoints import checkpoints, to_disk, writing
from saes.config import SAEConfig, TrainConfig
from saes.earlier import VERSION, as_today
from saes.errors import ConfigError, FormatError
from saes.fitting import Fitting
from saes.run_config import CHECKPOINTS, LOCK, SETTINGS

FORMAT = "saes-run"


def settings_of(fittings: Sequence[Fitting], about: Mapping[str, Any]) -> Any:
    """The settings of a run as JSON gives them back. What an SAE goes on from stands there if it does."""
    saes = [
        {"config": dataclasses.asdict(one.config), "train": dataclasses.asdict(one.train), **_started(one)}
        for one in fittings
    ]
    known = {"format": FORMAT, "version": VERSION, **({"about": dict(about)} if about else {}), "saes": saes}
    return json.loads(json.dumps(known))


def _started(fitting: Fitting) -> dict[str, str]:
    return {"started_from": fitting.started_from} if fitting.started_from else {}


def locked(folder: Path) -> IO[bytes]:
    """Make the folder, and keep other programs from training there while the file that is given back is open.

    The system opens the lock again when this program ends or is killed.

    Raises:
        ConfigError: another program is training there.
        FormatError: the folder cannot be written to, or not be locked.
    """
    try:
        import fcntl
    except ImportError:  # Windows has none
        return _opened(folder)
    while True:
        lock = _opened(folder)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(folder / LOCK, lock):
                return lock
        except OSError as error:
            lock.close()
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise FormatError(f"{folder / LOCK} cannot be locked ({error}). Choose another folder.") from error
            raise ConfigError(f"Another program is training in {folder}. Wait, or choose another folder.") from None
        lock.close()  # whoever held it has removed it since, and a new one may be somebody's


def _opened(folder: Path) -> IO[bytes]:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / LOCK).open("ab")  # it is empty; one that is a link to something is left as it is


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether an open file is the one that has the name now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def claim(folder: Path, settings: Any) -> None:
    """Make a locked folder this run's, if it is nobody's.

    Raises:
        ConfigError: it holds something else.
        FormatError: it cannot be written to.
    """
    path = folder / SETTINGS
    with writing(folder):
        if not path.exists():
            if checkpoints(folder / CHECKPOINTS):
                raise ConfigError(
                    f"{folder} holds checkpoints of a run, but {SETTINGS}, by which the run is known again, is "
                    "missing. Put it back if there is a copy, or choose another folder; the checkpoints hold the SAEs."
                )
            if others := sorted(one.name for one in folder.iterdir() if not one.name.startswith(".")):
                raise ConfigError(
                    f"{folder} is not empty and holds no run ({SETTINGS}), but {others[0]}. Choose another folder."
                )
            temporary = folder / f".{SETTINGS}.{os.getpid()}"
            temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            to_disk(temporary)
            os.replace(temporary, path)
            to_disk(folder)
    with writing(folder / CHECKPOINTS):  # what stands in its place shows now, not when the first one is written
        (folder / CHECKPOINTS).mkdir(exist_ok=True)


def check_settings(folder: Path, asked: Any) -> None:
    """See that the folder is this run's.

    Raises:
        ConfigError: it holds a run with other settings; the first that differs is named.
        FormatError: ``run.json`` cannot be read.
    """
    path = folder / SETTINGS
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path} cannot be read ({error}). Choose another folder.") from error
    if not isinstance(there, dict) or there.get("format") != FORMAT:
        raise FormatError(f'{path} does not hold the settings of a run ("format": "{FORMAT}"). Choose another folder.')
    if different := difference(_completed(as_today(there)), asked):
        place, theirs, ours = different
        raise ConfigError(
            f"{folder} holds a run with other settings: {place} is {theirs!r} there, and {ours!r} was asked "
            "for. Go on with the same settings, or choose another folder."
        )


def with_defaults(there: Mapping[str, Any], kind: type[SAEConfig] | type[TrainConfig]) -> dict[str, Any]:
    """Settings as JSON, with the default of each field that an earlier release did not have and so did not write."""
    defaults = {field.name: field.default for field in dataclasses.fields(kind) if field.default is not MISSING}
    return {**json.loads(json.dumps(defaults)), **there}


def _completed(there: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run with those of each SAE ``with_defaults``."""
    saes = there.get("saes")
    if not isinstance(saes, list) or not all(isinstance(one, dict) for one in saes):
        return dict(there)
    kinds = {"config": SAEConfig, "train": TrainConfig}

    def completed(name: str, found: Any) -> Any:
        return with_defaults(found, kinds[name]) if name in kinds and isinstance(found, dict) else found

    return {**there, "saes": [{name: completed(name, found) for name, found in one.items()} for one in saes]}


def difference(there: Any, asked: Any, place: str = "") -> tuple[str, Any, Any] | None:
    """Where two trees of JSON data differ first, and what is there in each."""
    if isinstance(there, Mapping) and isinstance(asked, Mapping):
        steps: Any = [(f"{place}.{key}".lstrip("."), there.get(key), asked.get(key)) for key in {**there, **asked}]
    elif isinstance(there, list) and isinstance(asked, list) and len(there) == len(asked):
        steps = [(f"{place}[{number}]", *pair) for number, pair in enumerate(zip(there, asked, strict=True))]
    else:
        return None if there == asked and type(there) is type(asked) else (place, there, asked)
    return next(filter(None, (difference(a, b, where) for where, a, b in steps)), None)
