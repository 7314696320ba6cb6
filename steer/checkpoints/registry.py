"""SAELens' list of pretrained SAEs, as the installed package has it. Its code is not run, nothing is downloaded.

Each release names the function by which SAELens reads its files (``conversion_func``). Each such family has one of our
formats, and some facts that stand nowhere in the files; the others have no form here and are refused with the reason.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from steer.checkpoints.source import HubPlace, RegistryPlace
from steer.errors import CheckpointError

_SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Entry:
    """One SAE of the list."""

    place: HubPlace
    """Where its files are."""
    format: str
    """In which of our formats."""
    known: Mapping[str, Any] = field(default_factory=dict)
    """What its files do not say, as arguments of ``saes.load``."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the SAE's config that the list sets, whatever the files say."""


Facts = Callable[[Mapping[str, Any], str], dict[str, Any]]


def _none(release: Mapping[str, Any], path: str) -> dict[str, Any]:
    return {}


def _model(release: Mapping[str, Any], path: str) -> dict[str, Any]:
    return {"model": str(release["model"])}


def _deepseek(release: Mapping[str, Any], path: str) -> dict[str, Any]:
    layer = re.search(r"-l(\d+)\.", path)
    return _model(release, path) | ({"site": f"{int(layer[1])}.resid_post"} if layer else {})


def _gemma_2_transcoder(release: Mapping[str, Any], path: str) -> dict[str, Any]:
    layer = re.search(r"layer_(\d+)", path)
    return {"site": f"blocks.{int(layer[1])}.ln2.hook_normalized"} if layer else {}


_FAMILIES: dict[str, tuple[str, Facts]] = {
    "sae_lens": ("saelens", _none),
    "gemma_2": ("gemma_scope", _none),
    "gemma_2_transcoder": ("gemma_scope", _gemma_2_transcoder),
    "gemma_3": ("gemma_scope_2", _none),
    "llama_scope": ("llama_scope", _none),
    "llama_scope_r1_distill": ("llamascopium", _model),
    "dictionary_learning_1": ("dictionary_learning", _none),
    "deepseek_r1": ("dictionary_learning", _deepseek),  # the tensors and the formula of its AutoEncoderNew
    "goodfire": ("goodfire", _model),
    "qwen_scope": ("qwen_scope", _model),
    "sparsify": ("sparsify", _none),
}
_REFUSED = {
    "connor_rob_hook_z": "its .pt files cannot be told from Qwen-Scope's, which hold the transposed matrices",
    "mntss_clt_layer_transcoder": "a cross-layer transcoder writes to many layers",
    "mwhanna_transcoder": "its transcoders are single .safetensors files, with settings in YAML files of the run",
    "temporal": "its latents depend on earlier tokens",
}
_SCALED = ("sae_lens", "llama_scope_r1_distill")  # whose factor of the inputs is in the list and not in the files
_OF_TRAINING = {"dataset_path", "model_from_pretrained_kwargs", "model_name", "hook_name"}
_NORMS = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm"}


def look_up(place: RegistryPlace) -> Entry:
    """The entry of an SAE.

    Raises:
        CheckpointError: SAELens is not installed, there is no such release or id, or the family has no form here.
    """
    releases = _releases()
    if place.release not in releases:
        raise CheckpointError(f"SAELens has no release {place.release!r}. {_closest(place.release, list(releases))}")
    release = releases[place.release]
    entries = {str(one["id"]): one for one in release["saes"]}
    if place.sae_id not in entries:
        close = get_close_matches(place.sae_id, list(entries), _SHOWN, 0.8) or list(entries)[:_SHOWN]
        raise CheckpointError(
            f"The release {place.release} has no SAE {place.sae_id!r}: it has {len(entries)}, for example "
            f"{', '.join(close)}. Write saelens:{place.release}/{close[0]}."
        )
    entry, family = entries[place.sae_id], str(release.get("conversion_func") or "sae_lens")
    if family not in _FAMILIES:
        reason = _REFUSED.get(family, "it is not known here")
        raise CheckpointError(
            f"The release {place.release} is of SAELens' family {family}, which is not read: {reason}."
        )
    format, facts = _FAMILIES[family]
    path = str(entry["path"])
    known = facts(release, path)
    if family in _SCALED and "norm_scaling_factor" in entry:
        known["input_scale"] = float(entry["norm_scaling_factor"])
    changes = _changes(release.get("config_overrides") or {}, place.release)
    return Entry(HubPlace(str(release["repo_id"]), path, place.revision), format, known, changes)


def _changes(overrides: Mapping[str, Any], release: str) -> dict[str, Any]:
    """What the list says against the files, where it changes what an SAE computes."""
    changes = {}
    for key, value in overrides.items():
        if key == "normalize_activations" and value in _NORMS:
            changes["input_norm"] = _NORMS[value]
        elif key not in _OF_TRAINING:
            raise CheckpointError(f"The release {release} overrides {key} with {value!r}, which is not known here.")
    return changes


@cache
def _releases() -> dict[str, Any]:
    """The whole list. The package is found and not imported, which would take many seconds."""
    import yaml

    spec = find_spec("sae_lens")
    if spec is None or spec.origin is None:
        raise CheckpointError("saelens: needs SAELens' list of SAEs. Install it with: pip install 'sae-lens>=6.40,<7'")
    path = Path(spec.origin).parent / "pretrained_saes.yaml"
    try:
        with path.open(encoding="utf-8") as file:
            found = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError) as error:
        raise CheckpointError(f"SAELens' list {path} cannot be read ({error}). Install SAELens again.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"SAELens' list {path} holds no releases. Install SAELens again.")
    return found


def _closest(name: str, names: list[str]) -> str:
    close = get_close_matches(name, names, _SHOWN, 0.5)
    holding = [one for one in names if name and name.lower() in one.lower()]
    shown = list(dict.fromkeys([*close, *holding]))[:_SHOWN]
    if not shown:
        return f"It has {len(names)}, for example {', '.join(names[:_SHOWN])}."
    return f"Close to it are {', '.join(shown)}."
