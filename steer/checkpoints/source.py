"""Where an SAE is to be had: a path, ``hub:owner/name/folder``, or ``saelens:release/id``."""

import re
from dataclasses import dataclass
from pathlib import Path

from steer.errors import CheckpointError

FORMS = "a path, hub:owner/name/folder, or saelens:release/id"
_SCHEME = re.compile(r"(\w[\w+.-]+):(.*)", re.DOTALL)  # at least two characters: C: is a drive
_REPO = re.compile(r"(?!.*(?:--|\.\.))(?=.{1,96}$)\w[\w.-]*/\w[\w.-]*", re.ASCII)  # the hub's own rule
_REVISION = re.compile(r"\w[\w./+-]*")
_INSIDE = re.compile(r"[^/\\]+(?:/[^/\\]+)*")


@dataclass(frozen=True)
class HubPlace:
    """A folder or a file of a repository on the Hugging Face hub."""

    repo: str
    """Id of the repository, owner/name."""
    inside: str = ""
    """Path in it, of the folder or the file; empty: its root."""
    revision: str | None = None
    """Commit, branch or tag; None: the main branch."""

    def __post_init__(self) -> None:
        if self.revision is not None and (not _REVISION.fullmatch(self.revision) or ".." in self.revision):
            raise CheckpointError(f"{self.revision[:200]!r} is no revision: expected a commit, a branch or a tag.")

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return "hub:" + "/".join(part for part in (self.repo, self.inside) if part) + at


@dataclass(frozen=True)
class RegistryPlace:
    """An entry of SAELens' list of pretrained SAEs."""

    release: str
    """Name of the release, for example ``gemma-scope-2b-pt-res-canonical``."""
    sae_id: str
    """Id of an SAE in it, for example ``layer_20/width_16k/canonical``."""
    revision: str | None = None
    """Revision of the repository; None: the main branch."""


def parse_source(source: str | Path, revision: str | None = None) -> Path | HubPlace | RegistryPlace:
    """What a source means. ``hub:`` and ``saelens:`` are taken by their word, also where a file has such a name.

    Raises:
        CheckpointError: it has none of the three forms, or a revision is given for a path, or twice.
    """
    match = _SCHEME.fullmatch(source) if isinstance(source, str) else None
    if match and match[1] == "hub":
        return parse_hub(match[2], revision)
    if match and match[1] == "saelens":
        release, _, sae_id = match[2].partition("/")
        return RegistryPlace(release, sae_id, revision)
    if match and not Path(source).exists():
        hint = " A repository of the Hugging Face hub is written hub:owner/name." if _means_hub(match[1]) else ""
        raise CheckpointError(
            f"Unknown scheme {match[1]!r} in {str(source)[:200]!r}: an SAE is named by {FORMS}.{hint}"
        )
    if revision is not None:
        raise CheckpointError(f"revision goes with hub: and saelens:, got {revision!r} for the path {source}.")
    return Path(source)


def parse_hub(text: str, revision: str | None = None) -> HubPlace:
    """``owner/name[/folder][@revision]``.

    Raises:
        CheckpointError: it has another form, or a revision is given twice.
    """
    if text.startswith("hub:"):
        raise CheckpointError(f"'hub:{text[:200]}' says hub: twice. Write hub:owner/name.")
    named, _, at = text.rpartition("@") if "@" in text else (text, "", "")
    owner, name, inside = [*named.split("/", 2), "", ""][:3]
    inside = inside.rstrip("/")
    if (
        not _REPO.fullmatch(f"{owner}/{name}")
        or (inside and not _INSIDE.fullmatch(inside))
        or ".." in inside.split("/")
    ):
        raise CheckpointError(
            f"{text[:200]!r} names no place on the hub: expected owner/name, owner/name/folder or owner/name/file, "
            "with @revision behind it if need be."
        )
    if at and revision is not None and at != revision:
        raise CheckpointError(f"Two revisions are given, {at!r} and {revision!r}. Give one.")
    return HubPlace(f"{owner}/{name}", inside, at or revision)


def _means_hub(scheme: str) -> bool:
    return scheme.lower() in ("hf", "http", "https", "huggingface", "hf.co", "hub")
