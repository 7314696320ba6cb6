"""Plans as files: JSON or TOML, which say the same, with the vectors in one safetensors file beside it."""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from steer.checks import seen_twice
from steer.errors import OutputError, PlanError
from steer.files import remove, write_bytes, write_json, write_text, writing
from steer.plans import digests
from steer.plans.part import Name, Part
from steer.plans.plan import SteeringPlan
from steer.plans.sources import Digest
from steer.plans.toml import to_toml

FORMAT, VERSION = "steering-plan", 1
SUFFIXES = (".json", ".toml")
_FILE_NAME = re.compile(r"[^/\\\x00]+\.safetensors")


class _VectorsFile(Part):
    """Where a plan's vectors are."""

    file: Name
    """Name of a file in the plan's folder."""
    digest: Digest


def write_plan(plan: SteeringPlan, path: str | Path) -> Path:
    """Write a plan to ``path`` (.json or .toml), and its vectors, if any, to ``NAME.DIGEST.safetensors`` beside it.

    The plan itself is moved into place last and names the vectors by their digest, so that after a kill the plan that
    was there before still reads. Relative paths of SAEs stay as they are: they start from the plan's folder.

    Raises:
        PlanError: the name ends otherwise.
        OutputError: it cannot be written.
    """
    path = Path(path)
    _check_suffix(path)
    with writing(path):
        if path.is_dir():
            raise OutputError(f"{path} is a folder where a file is to be written. Give another name.")
    data: dict[str, Any] = {"format": FORMAT, **plan.data()}
    before = _vectors_named(path)
    if plan.vectors:
        digest = digests.of_tensors(plan.vectors)
        name = f"{path.stem}.{digest[:8]}.safetensors"
        write_bytes(path.with_name(name), to_safetensors(plan.vectors, {"format": FORMAT}))
        data["vectors"] = {"file": name, "digest": digest}
    if path.suffix == ".json":
        write_json(path, data)
    else:
        write_text(path, to_toml(data))
    if before is not None and before != data.get("vectors", {}).get("file"):
        remove(path.with_name(before))
    return path


def read_plan(path: str | Path) -> SteeringPlan:
    """Read a plan that ``write_plan`` has written, or somebody by hand. No pickle is executed.

    Raises:
        PlanError: it cannot be read, is no plan, or something in it is wrong; see ``SteeringPlan``.
    """
    path = Path(path)
    data = _read(path)
    if data.pop("format", FORMAT) != FORMAT:
        raise PlanError(f"{path} is no plan: its format is not {FORMAT!r}.")
    version = data.get("version")
    if version != VERSION:
        is_newer = isinstance(version, int) and version > VERSION
        remedy = "Use a newer release." if is_newer else f"Say version = {VERSION}."
        got = "none" if version is None else repr(version)
        raise PlanError(f"{path}: version {VERSION} of the format is read here, got {got}. {remedy}")
    vectors = data.pop("vectors", None)
    if reserved := [name for name in ("folder",) if name in data]:
        raise PlanError(f"{path}: unknown key {reserved[0]!r}.")
    try:
        return SteeringPlan(**data, vectors=_read_vectors(path, vectors), folder=path.parent)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise PlanError(f"A plan is a file that ends in {' or '.join(SUFFIXES)}, got {path}.")


def _read(path: Path) -> dict[str, Any]:
    _check_suffix(path)
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text, object_pairs_hook=_once) if path.suffix == ".json" else tomllib.loads(text)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error
    except OSError as error:
        raise PlanError(f"The plan {path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path} is not {path.suffix[1:].upper()} ({error}).") from error
    if not isinstance(data, dict):
        raise PlanError(f"{path} holds {type(data).__name__}, expected the keys and values of a plan.")
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, which may say a thing once only: of two values it would not be known which is meant."""
    if twice := seen_twice(name for name, _ in pairs):
        raise PlanError(f"the key {twice[0]!r} stands twice in one object. Give it once.")
    return dict(pairs)


def _read_vectors(path: Path, data: Any) -> dict[str, Tensor]:
    """The vectors that a plan names, as they were when it was written."""
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise PlanError(f"vectors: expected file and digest, got {type(data).__name__}.")
    where = _VectorsFile(**data)
    vectors_file(path)
    vectors = read_tensors(path.with_name(where.file))
    if (got := digests.of_tensors(vectors)) != where.digest:
        raise PlanError(f"{where.file} has other vectors than the plan: digest {got}, expected {where.digest}.")
    return vectors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        PlanError: it cannot be read.
    """
    try:
        return from_safetensors(path.read_bytes())
    except OSError as error:
        raise PlanError(f"The vectors in {path} cannot be read: {error.strerror or error}.") from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise PlanError(f"{path} is no safetensors file ({error}). Copy it again.") from error


def vectors_file(path: Path) -> str | None:
    """The name of the file of vectors that a plan's file names, if it does.

    Raises:
        PlanError: the file cannot be read, or the name is none.
    """
    vectors = _read(path).get("vectors")
    if vectors is None:
        return None
    name = vectors.get("file") if isinstance(vectors, Mapping) else None
    if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
        raise PlanError(f"vectors.file: expected the name of a .safetensors file beside the plan, got {name!r}.")
    return name


def _vectors_named(path: Path) -> str | None:
    """The file of vectors, written by ``write_plan``, of a plan that is there already."""
    try:
        name = vectors_file(path)
    except PlanError:
        return None
    own = re.compile(re.escape(path.stem) + r"\.[0-9a-f]{8}\.safetensors")
    return name if name is not None and own.fullmatch(name) else None
