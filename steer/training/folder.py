"""The run folder as ``steer train`` meets it: is it free, does it hold this run, and what is a run's to remove."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from saes.checkpoints import DAMAGED, TEMPORARY, checkpoint_name, checkpoints
from saes.earlier import as_today
from saes.formats import native
from saes.run_config import CHECKPOINTS, LOG, SETTINGS
from steer.checkpoints.source import parse_source
from steer.errors import OutputError
from steer.files import check_output, claimed, remove, writing
from steer.training.config import TrainingConfig, first_difference

REPLACED = ".replaced"  # in a run folder: the run before, until the new one has a checkpoint
TENSORBOARD, WANDB, WANDB_ID = "tensorboard", "wandb", "wandb.json"
SHOWN = 12  # names in a message


def holds_run(folder: Path) -> bool:
    """Whether there is a run in the folder."""
    return (folder / SETTINGS).is_file()


def lost_its_settings(folder: Path) -> bool:
    """Whether the folder holds checkpoints of a run, but not the file by which the run is known again."""
    return not holds_run(folder) and bool(checkpoints(folder / CHECKPOINTS))


def came_to_nothing(folder: Path) -> bool:
    """Whether the run in the folder ended before its first checkpoint, so that there is nothing to go on from."""
    kept = folder / CHECKPOINTS
    return (
        holds_run(folder)
        and not steps_saved(folder)
        and not _sae_folders(folder)
        and (kept.is_dir() or not kept.exists())
    )


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
    for source in config.from_sae or () if overwrite else ():
        place = parse_source(source)
        if isinstance(place, Path) and place.resolve().is_relative_to(folder.resolve()):
            raise OutputError(
                f"--overwrite removes what a run has written into {folder}, and with it {source}, which training is to "
                "go on from. Choose another folder."
            )
    there, lost = holds_run(folder), lost_its_settings(folder)
    others = sorted(_others(folder))
    if lost and not overwrite:
        raise OutputError(
            f"{folder} holds checkpoints of a run, but {SETTINGS}, by which the run is known again, is missing, so it "
            f"cannot be gone on with. Put {SETTINGS} back if there is a copy, or begin anew with --overwrite; the SAEs "
            f"so far are in {folder / CHECKPOINTS / checkpoint_name(steps_saved(folder))}."
        )
    if others and not (there or lost):
        raise OutputError(f"{folder} is not empty and holds no run: {_first(others)}. Choose another folder.")
    if overwrite and (others := others or sorted(_inside(folder))):
        raise OutputError(
            f"--overwrite removes what a run has written, and {folder} holds more: {_first(others)}. Move that, or "
            "choose another folder."
        )
    about = _about(folder) if there and not overwrite else {}
    if about and not came_to_nothing(folder) and (different := first_difference(about, config.deciding())):
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
                for old in (sae / name, *_unfinished(sae, name)):
                    remove(old)
            _remove_empty(sae)
        for kind in (TEMPORARY, DAMAGED):
            for left in (folder / CHECKPOINTS).glob(f"{kind}*"):
                shutil.rmtree(left)
        _remove_empty(folder / CHECKPOINTS)
        for name in (LOG, WANDB_ID, SETTINGS):
            remove(folder / name)
    _remove_empty(folder)


def set_aside(folder: Path) -> None:
    """Put the run in the folder where a new one does not meet it, until ``let_go`` or ``put_back``.

    ``run.json`` goes first, so that a kill in between leaves nothing that passes for a run; ``put_back`` mends it.

    Raises:
        OutputError: something cannot be moved, or another program is training there.
    """
    if not (holds_run(folder) or lost_its_settings(folder)):
        return
    with claimed(folder), writing(folder):
        aside = folder / REPLACED
        aside.mkdir()
        owned = (folder / name for name in (SETTINGS, LOG, CHECKPOINTS, TENSORBOARD, WANDB, WANDB_ID))
        for old in (*owned, *_sae_folders(folder)):
            if old.exists():
                old.rename(aside / old.name)


def put_back(folder: Path) -> None:
    """Put the run back that ``set_aside`` has put away, in the place of one that has come to nothing.

    Raises:
        OutputError: something cannot be moved, or another program is training there.
    """
    clear(folder)
    aside = folder / REPLACED
    if not aside.is_dir():
        return
    with claimed(folder), writing(folder):
        for old in sorted(aside.iterdir(), key=lambda path: path.name == SETTINGS):  # which goes last
            old.rename(folder / old.name)
        aside.rmdir()


def let_go(folder: Path) -> None:
    """Remove the run that ``set_aside`` has put away."""
    with writing(folder):
        if (folder / REPLACED).is_dir():
            shutil.rmtree(folder / REPLACED)


def mend(folder: Path) -> None:
    """After a kill: keep the run that was put away, or the one that was to replace it if that has a checkpoint."""
    with writing(folder):
        there = (folder / REPLACED).is_dir()
    if there:
        let_go(folder) if steps_saved(folder) else put_back(folder)


def _about(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS
    try:
        found = as_today(json.loads(path.read_text(encoding="utf-8"))).get("about", {})
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise OutputError(f"{path} cannot be read ({error}). Choose another folder.") from error
    return found if isinstance(found, dict) else {}


def _sae_folders(folder: Path) -> list[Path]:
    """Folders of trained SAEs, also those that a kill has left half-written."""
    files = (native.CONFIG, native.WEIGHTS)
    return [
        path
        for path in (folder / "sae", *folder.glob("sae-*"))
        if any((path / name).is_file() or _unfinished(path, name) for name in files)
    ]


def _unfinished(folder: Path, name: str) -> list[Path]:
    """What a kill has left of a file under its temporary name, which ends with the number of the process."""
    return [path for path in folder.glob(f".{name}.*") if path.suffix[1:].isdigit()]


def _others(folder: Path) -> set[str]:
    """Names in the folder that are not a run's; hidden ones do not count."""
    if not folder.is_dir():
        return set()
    ours = {SETTINGS, LOG, CHECKPOINTS, TENSORBOARD, WANDB, WANDB_ID, *(path.name for path in _sae_folders(folder))}
    found = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    return found - ours if holds_run(folder) or lost_its_settings(folder) else found


def _inside(folder: Path) -> set[str]:
    """What would stay in a run's own folders if the run were removed, so that no other could begin there."""
    own = {path.name for path in checkpoints(folder / CHECKPOINTS)}
    found = {
        f"{CHECKPOINTS}/{path.name}"
        for path in (folder / CHECKPOINTS).glob("*")
        if path.name not in own and not path.name.startswith((TEMPORARY, DAMAGED))
    }
    for sae in _sae_folders(folder):
        names = {path.name for path in sae.iterdir()} - {native.CONFIG, native.WEIGHTS}
        names -= {path.name for name in (native.CONFIG, native.WEIGHTS) for path in _unfinished(sae, name)}
        found |= {f"{sae.name}/{name}" for name in names}
    return found


def _first(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # one that is not empty, or that is in use, stays
        folder.rmdir()
