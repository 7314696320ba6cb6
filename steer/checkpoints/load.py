"""``load_sae``: an SAE from a path, from the hub, or by its name in SAELens' list."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from saes import SAE
from saes.formats import find_format, read
from saes.formats.given import Given
from saes.paths import as_path
from steer.checkpoints.hub import fetch
from steer.checkpoints.registry import look_up
from steer.checkpoints.source import FORMS, HubPlace, RegistryPlace, parse_source
from steer.errors import CheckpointError


@dataclass(frozen=True)
class Located:
    """Where an SAE's files are on this machine, and what is known of it besides."""

    path: Path
    """The folder or the file."""
    format: str | None = None
    """Its format, where that is known."""
    known: Mapping[str, Any] = field(default_factory=dict)
    """What the files may not say, as arguments of ``saes.load``."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """Those of them that somebody asked for, and that must not be passed over therefore."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the config to set, whatever the files say."""

    def load(self) -> SAE:
        """The SAE.

        Raises:
            SaesError: the files cannot be read; see ``saes.load``.
        """
        sae = read(self.path, self.format, Given(**self.known))
        Given(**self.asked).require_heeded(sae.config, self.path)
        sae.config = replace(sae.config, **self.changes)
        return sae


def load_sae(
    source: str | Path,
    *,
    format: str | None = None,
    model: str | None = None,
    site: str | None = None,
    k: int | None = None,
    input_scale: float | None = None,
    revision: str | None = None,
    note: Callable[[str], None] | None = None,
) -> SAE:
    """Load an SAE of any format that ``saes.load`` reads, from wherever it is.

    Args:
        source: a path; ``hub:owner/name/folder@revision``, of which folder and revision may be left out, and which may
            also name one file; or ``saelens:release/id``, a name in the installed SAELens' list of pretrained SAEs.
        format: name of the format; None: it is recognised by its files.
        model: name of the language model, instead of what the files say.
        site: where in the model the SAE reads, instead of what the files say.
        k: latents active on a token, where the files do not say it; where they do, the same.
        input_scale: factor that activations were multiplied by in training, where the files do not say it; the same.
        revision: commit, branch or tag on the hub, if it does not stand in ``source``.
        note: told before the network is used, and when the local cache has to do instead.

    The network is used for ``hub:`` and ``saelens:`` alone, and not with ``HF_HUB_OFFLINE=1``: then the local cache is.

    Raises:
        CheckpointError: the source has none of the forms, or the hub or SAELens' list does not have it.
        SaesError: the files are not those of an SAE, or cannot be read; see ``saes.load``.
    """
    return locate(
        source, format=format, model=model, site=site, k=k, input_scale=input_scale, revision=revision, note=note
    ).load()


def locate(
    source: str | Path,
    *,
    format: str | None = None,
    revision: str | None = None,
    note: Callable[[str], None] | None = None,
    **given: Any,
) -> Located:
    """Find an SAE's files, and bring them here if they are on the hub. Arguments as in ``load_sae``.

    Raises:
        CheckpointError: see ``load_sae``.
        ConfigError: there is no format of this name.
    """
    if format is not None:
        find_format(format)
    as_path(source, "An SAE's source", CheckpointError)
    place = parse_source(source, revision)
    given = {name: value for name, value in given.items() if value is not None}
    Given(**given)  # names and numbers that cannot be show before anything is downloaded
    if isinstance(place, HubPlace):
        return Located(fetch(place, format, note)[0], format, given, given)
    if isinstance(place, RegistryPlace):
        return _registered(place, format, given, note)
    try:
        there = place.exists()
    except OSError as error:
        raise CheckpointError(f"{place} cannot be looked at ({error}). An SAE is named by {FORMS}.") from error
    if not there:
        hint = f" For the hub, write hub:{source}." if str(source).count("/") >= 1 and not place.is_absolute() else ""
        raise CheckpointError(f"No SAE at {place}: nothing is there. An SAE is named by {FORMS}.{hint}")
    return Located(place, format, given, given)


def _registered(
    place: RegistryPlace, format: str | None, given: dict[str, Any], note: Callable[[str], None] | None
) -> Located:
    entry = look_up(place)
    if format not in (None, entry.format):
        raise CheckpointError(
            f"The release {place.release} is of the format {entry.format}, but {format} was asked for. Leave it out."
        )
    path, names = fetch(entry.place, entry.format, note)
    if entry.format == "gemma_scope_2" and "transcoder" in entry.place.inside and "config.json" not in names:
        raise CheckpointError(
            f"{entry.place} has no config.json, which says where the transcoder reads and writes. Download the folder, "
            "add one with hf_hook_point_in and hf_hook_point_out, and give its path."
        )
    return Located(path, entry.format, {**entry.known, **given}, given, entry.changes)
