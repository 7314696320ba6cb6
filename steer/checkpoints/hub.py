"""The Hugging Face hub: the files that an SAE needs, through its own client and cache."""

import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from saes.errors import FormatError
from saes.formats import files_to_read
from steer.checkpoints.source import HubPlace
from steer.errors import CheckpointError
from steer.files import write_text

Note = Callable[[str], None]
_SHOWN = 8  # names in a message


@dataclass(frozen=True)
class Listing:
    """What a repository holds at one commit."""

    commit: str
    files: frozenset[str]
    """Paths of the files, from the root; offline, of those in the local cache."""


def is_offline() -> bool:
    """Whether the user has switched the hub off (``HF_HUB_OFFLINE=1``)."""
    from huggingface_hub import constants

    return constants.is_offline_mode()


def fetch(place: HubPlace, format: str | None = None, note: Note | None = None) -> tuple[Path, frozenset[str]]:
    """Bring the files of an SAE, and no others, into the local cache.

    The hub is asked for what the repository holds now, and files of that commit which are in the cache already are not
    downloaded again. Where the hub is switched off, or cannot be reached, the cache alone is used.

    Returns:
        The folder or the file in the cache, and the names of the files beside it that the repository has.

    Raises:
        CheckpointError: the hub or the cache does not give it, or there is no SAE at that place.
    """
    listing, cached = _listing(place, note)
    folder, file, names = _look(listing, place)
    try:
        needed, beside = files_to_read(names, file, format)
    except FormatError as error:
        raise CheckpointError(f"{place} holds no SAE that can be read. {error} {_below(listing, folder)}") from error
    wanted = [posixpath.normpath(posixpath.join(folder, name)) for name in (*beside, *needed)]
    wanted = [name for name in wanted if name in listing.files]
    snapshot = _storage(place.repo) / "snapshots" / listing.commit
    if not cached:
        _download(place, listing.commit, wanted)
        if place.revision != listing.commit:
            write_text(_reference(place), listing.commit)  # as the client does, by which it is found when offline
    return snapshot / folder / (file or ""), frozenset(names)


def _listing(place: HubPlace, note: Note | None) -> tuple[Listing, bool]:
    """What the repository holds, and whether that is the cache's answer."""
    if is_offline():
        return _cached(place, "the hub is switched off (HF_HUB_OFFLINE)"), True
    if note:
        note(f"asking the hub for {place} ...")
    try:
        return _asked(place), False
    except _UnreachableError as error:
        listing = _cached(place, f"the hub cannot be reached ({error})")
        if note:
            note(f"the hub cannot be reached ({error}); what is in the local cache is used")
        return listing, True


class _UnreachableError(Exception):
    """The hub gave no answer at all."""


def _asked(place: HubPlace) -> Listing:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().model_info(place.repo, revision=place.revision)
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{place.repo} has no revision {place.revision!r} on the hub. Check it.") from error
    except GatedRepoError as error:
        raise CheckpointError(
            f"{place.repo} is gated: ask for access on its page, and give your token in HF_TOKEN."
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"There is no repository {place.repo} on the hub, or it is private. Check the name, and HF_TOKEN."
        ) from error
    except HfHubHTTPError as error:
        raise _UnreachableError(one_line(error)) from error
    except Exception as error:  # the HTTP library below raises errors of many kinds
        raise _UnreachableError(one_line(error)) from error
    if info.sha is None:
        raise CheckpointError(f"The hub does not say which commit of {place.repo} is the newest. Try again.")
    return Listing(info.sha, frozenset(one.rfilename for one in info.siblings or ()))


def _cached(place: HubPlace, reason: str) -> Listing:
    commit = place.revision or ""
    reference, snapshots = _reference(place), _storage(place.repo) / "snapshots"
    if reference.is_file():
        commit = reference.read_text(encoding="utf-8").strip()
    snapshot = snapshots / commit
    if not commit or not snapshot.is_dir():
        raise CheckpointError(f"{place} is not in the local cache, and {reason}. Download it when the hub is at hand.")
    files = (path for path in snapshot.rglob("*") if path.is_file())
    return Listing(commit, frozenset(path.relative_to(snapshot).as_posix() for path in files))


def _storage(repo: str) -> Path:
    """The repository's folder in the cache."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")


def _reference(place: HubPlace) -> Path:
    """The file in the cache that names the commit of a branch or tag."""
    return _storage(place.repo) / "refs" / (place.revision or "main")


def _look(listing: Listing, place: HubPlace) -> tuple[str, str | None, list[str]]:
    """The folder meant, the file meant in it (None: the folder itself), and the files of the folder."""
    folder, file = place.inside, None
    if place.inside in listing.files:
        folder, file = posixpath.split(place.inside)
        if posixpath.basename(folder) == "checkpoints" and not file.endswith((".pt", ".pth")):
            folder, file = posixpath.dirname(folder), f"checkpoints/{file}"
    prefix = f"{folder}/" if folder else ""
    below = [name.removeprefix(prefix) for name in listing.files if name.startswith(prefix)]
    if not below:
        raise CheckpointError(f"{place.repo} has no folder or file {place.inside!r}. {_below(listing, '')}")
    return folder, file, [name for name in below if "/" not in name.removeprefix("checkpoints/")]


def _below(listing: Listing, folder: str) -> str:
    """Folders with weights below a folder, for a message."""
    prefix = f"{folder}/" if folder else ""
    weights = (".safetensors", ".npz", ".pt", ".pth")
    inside = {name for name in listing.files if name.startswith(prefix) and name.endswith(weights)}
    found = sorted({posixpath.dirname(name) or name for name in inside} - {folder})
    if not found:
        return "It holds no weights."
    return f"Weights are in {', '.join(found[:_SHOWN])}{', ...' if len(found) > _SHOWN else ''}."


def _download(place: HubPlace, commit: str, names: list[str]) -> None:
    from huggingface_hub import hf_hub_download

    for name in names:
        try:
            hf_hub_download(place.repo, name, revision=commit)
        except Exception as error:  # network, disk and server
            raise CheckpointError(
                f"{name} of {place.repo} was not downloaded: {one_line(error)}. What is complete stays in the local "
                "cache; try again."
            ) from error


def one_line(error: Exception) -> str:
    """The message of a library's error, cut to a length that can be read."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
