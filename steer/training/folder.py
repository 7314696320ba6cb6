"""The run folder as ``steer train`` meets it: is it free, does it hold this run, and what is a run's to remove."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from saes.checkpoints import DAMAGED, TEMPORARY, checkpoints
from saes.earlier import as_today
from saes.formats import native
from saes.run import CHECKPOINTS, LOG, SETTINGS
from steer.errors import OutputError
from steer.files import check_output, claimed, remove, writing
from steer.training.config import TrainingConfig, first_difference

TENSORBOARD, WANDB, WANDB_ID = "tensorboard", "wandb", "wandb.json"


def holds_run(folder: Path) -> bool:
    """Whether there is a run in the folder."""
    return (folder / SETTINGS).is_file()


def steps_saved(folder: Path) -> int:
    """Steps after which the newest checkpoint was written; 0 where there is none."""
    found = checkpoints(folder / CHECKPOINTS)
    return int(found[0].name.rpartition("-")[2]) if found else 0


def check_folder(config: TrainingConfig, overwrite: bool) -> None:
    """See whether the run can be kept in its folder, without touching anything.

    Raises:
        OutputError: the folder holds something else, or a run with other settings (the first that differs is named), or
            cannot be written to, or another program is writing to it.
    """
    folder = Path(config.out)
    check_output(folder, overwrite=True)
    there = holds_run(folder)
    others = sorted(_others(folder))
    if others and not there:
        raise OutputError(f"{folder} is not empty and holds no run: {_first(others)}. Choose another folder.")
    if others and overwrite:
        raise OutputError(
            f"--overwrite removes what a run has written, and {folder} holds more: {_first(others)}. Move that, or "
            "choose another folder."
        )
    if there and not overwrite and (different := first_difference(_about(folder), config.deciding())):
        name, theirs, ours = different
        raise OutputError(
            f"{folder} holds a run with other settings: {name} is {json.dumps(theirs)} there, but {json.dumps(ours)} "
            "was asked for. Go on with the same settings, choose another folder, or begin anew with --overwrite."
        )


def clear(folder: Path) -> None:
    """Remove what a run has written, and the folder if that was all.

    ``run.json`` goes last, so that a kill in between leaves a run that can be gone on with or removed again.

    Raises:
        OutputError: something cannot be removed, or another program is training there.
    """
    if not folder.is_dir():
        return
    with claimed(folder), writing(folder):
        for old in (*checkpoints(folder / CHECKPOINTS), folder / TENSORBOARD, folder / WANDB):
            if old.is_dir():
                shutil.rmtree(old)
        for sae in _sae_folders(folder):
            for name in (native.WEIGHTS, native.CONFIG):
                remove(sae / name)
            _remove_empty(sae)
        for kind in (TEMPORARY, DAMAGED):
            for left in (folder / CHECKPOINTS).glob(f"{kind}*"):
                shutil.rmtree(left)
        _remove_empty(folder / CHECKPOINTS)
        for name in (LOG, WANDB_ID, SETTINGS):
            remove(folder / name)
    _remove_empty(folder)


def _about(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS
    try:
        found = as_today(json.loads(path.read_text(encoding="utf-8"))).get("about", {})
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise OutputError(f"{path} cannot be read ({error}). Choose another folder.") from error
    return found if isinstance(found, dict) else {}


def _sae_folders(folder: Path) -> list[Path]:
    return [path for path in (folder / "sae", *folder.glob("sae-*")) if (path / native.CONFIG).is_file()]


def _others(folder: Path) -> set[str]:
    """Names in the folder that are not a run's; hidden ones do not count."""
    if not folder.is_dir():
        return set()
    ours = {SETTINGS, LOG, CHECKPOINTS, TENSORBOARD, WANDB, WANDB_ID, *(path.name for path in _sae_folders(folder))}
    found = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    return found - ours if holds_run(folder) else found


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # one that is not empty, or that is in use, stays
        folder.rmdir()
