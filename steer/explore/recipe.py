"""Recipes: a session as a file that can be read, shared, and run again with the same outcome."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors

from steer.checks import require_whole
from steer.errors import DataError, PlanError
from steer.explore.kept_files import sha256
from steer.explore.state import State
from steer.files import check_ordinary, write_json
from steer.models.chat import as_conversation
from steer.models.decode import Sampling
from steer.plans.plan import SamplingSpec, SteeringPlan

FORMAT, VERSION = "steer-explore-recipe", 1


@dataclass(frozen=True)
class Step:
    """A command that was run."""

    line: str
    """As it was typed."""
    files: Mapping[str, bytes]
    """What it read, by the names that it was read by."""
    replies: tuple[tuple[int, ...], ...] = ()
    """Token ids of what the model said."""


@dataclass(frozen=True)
class Named:
    """Where what a recipe was made with is to be had, as it says."""

    model: str
    dtype: str
    sae: str
    site: str
    index: str | None
    embedder: str | None


@dataclass(frozen=True)
class Recipe:
    """What a session did, with what, and where it got to."""

    identity: Mapping[str, Any]
    """Model, SAE and index, as ``Bench.identity`` has them."""
    steps: tuple[Step, ...]
    state: State

    @property
    def named(self) -> Named:
        """Model, SAE and index by their names."""
        model, sae, index = (self.identity[kind] for kind in ("model", "sae", "index"))
        index_folder, embedder_folder = (
            None if found is None else found["folder"] for found in (index, self.identity.get("embedder"))
        )
        return Named(model["name"], model["dtype"], sae["source"], sae["site"], index_folder, embedder_folder)


def recipe_data(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON data; a file that several commands read stands once."""
    files = {sha256(data): data for step in recipe.steps for data in step.files.values()}
    steps = [
        {
            "line": step.line,
            **({"files": {name: sha256(data) for name, data in step.files.items()}} if step.files else {}),
            **({"replies": [list(ids) for ids in step.replies]} if step.replies else {}),
        }
        for step in recipe.steps
    ]
    state = recipe.state
    plan = {**state.plan.data(), "folder": str(state.plan.folder)}
    if state.plan.vectors:
        plan["vectors"] = base64.b64encode(to_safetensors(state.plan.vectors)).decode("ascii")
    now = {
        "prompt": state.prompt,
        "said": [dict(message) for message in state.said],
        "top": state.top,
        "sampling": asdict(state.sampling),
        "plan": plan,
    }
    made_with = dict(recipe.identity)
    kept = {digest: _encoded(data) for digest, data in files.items()}
    return {"format": FORMAT, "version": VERSION, **made_with, "steps": steps, "files": kept, "state": now}


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    write_json(path, recipe_data(recipe))


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file.

    Raises:
        DataError: it cannot be read, is no recipe, of another version, or damaged.
    """
    try:
        check_ordinary(path)
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"The recipe {path} cannot be read: {error.strerror or error}.") from error
    return parse_recipe(data, str(path))


def parse_recipe(data: bytes, where: str) -> Recipe:
    """A recipe from the contents of the file ``where``.

    Raises:
        DataError: it is no recipe, of another version, or damaged.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no recipe: it is not JSON ({error}).") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError(f'{where} is no recipe of steer explore, which says "format": "{FORMAT}".')
    if found.get("version") != VERSION:
        raise DataError(
            f"{where} is of version {found.get('version')!r} of the format, and version {VERSION} is read here. "
            "Use the release that wrote it."
        )
    try:
        files = {digest: _decoded(one) for digest, one in found["files"].items()}
        if altered := [digest for digest, one in files.items() if sha256(one) != digest]:
            raise DataError(f"a file that it keeps was altered ({altered[0][:16]}...)")
        steps = tuple(_step(one, files) for one in found["steps"])
        identity = {kind: _identity(found[kind], kind) for kind in ("model", "sae", "index")}
        identity["embedder"] = _identity(found.get("embedder"), "embedder")  # what is older than it has none
        return Recipe(identity, steps, _state(found["state"]))
    except (KeyError, TypeError, AttributeError, ValueError, SafetensorError) as error:  # ours are ValueErrors too
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise DataError(f"{where} is damaged: {reason}.") from error


def _step(row: Mapping[str, Any], files: Mapping[str, bytes]) -> Step:
    replies = tuple(tuple(map(int, ids)) for ids in row.get("replies", []))
    line = row["line"]
    if not isinstance(line, str):
        raise DataError(f"a command is a text, got {line!r}")
    return Step(line, {name: files[digest] for name, digest in row.get("files", {}).items()}, replies)


_SAID = {
    "model": ("name", "dtype", "config", "weights", "tokenizer"),
    "sae": ("source", "site", "digest"),
    "index": ("folder", "files"),
    "embedder": ("folder",),
}
"""What a recipe says of each."""


def _identity(found: Any, kind: str) -> Mapping[str, str] | None:
    if found is None and kind in ("index", "embedder"):
        return None
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in _SAID[kind]):
        raise DataError(f"it does not say of the {kind}: {', '.join(_SAID[kind])}")
    return found


def _state(found: Mapping[str, Any]) -> State:
    plan, prompt = dict(found["plan"]), found["prompt"]
    vectors, folder = plan.pop("vectors", None), Path(plan.pop("folder"))
    held = {} if vectors is None else from_safetensors(base64.b64decode(vectors, validate=True))
    if prompt is not None and not isinstance(prompt, str):
        raise PlanError(f"the prompt is a text, got {prompt!r}")
    require_whole("top", found["top"], DataError)
    sampling: Sampling = SamplingSpec(**found["sampling"]).sampling()
    said = found.get("said", [])  # what is older than /more has none
    if not isinstance(said, list):
        raise DataError(f"what was said is turns, got {said!r}")
    conversation = tuple(as_conversation(said)) if said else ()
    return State(SteeringPlan(**plan, vectors=held, folder=folder), sampling, prompt, conversation, found["top"])


def _encoded(data: bytes) -> dict[str, str]:
    """Contents of a file, as text where they are that."""
    try:
        return {"text": data.decode("utf-8")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode("ascii")}


def _decoded(found: Mapping[str, str]) -> bytes:
    return found["text"].encode("utf-8") if "text" in found else base64.b64decode(found["base64"], validate=True)


def same_replies(one: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> bool:
    """Whether a replay said the same, token for token."""
    return [list(ids) for ids in one] == [list(ids) for ids in other]
