"""Control vectors in GGUF, as llama.cpp, repeng and EasySteer write and read them."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steer.errors import MissingExtra, PlanError

ARCHITECTURE = "controlvector"
_NAME = re.compile(r"direction\.(\d{1,9})")


def write_control_vector(vectors: Mapping[int, Float[Tensor, " d_model"]], hint: str) -> bytes:
    """A GGUF file with ``direction.LAYER``, float32, for each layer.

    Raises:
        PlanError: there is a vector of layer 0, which llama.cpp does not have.
        MissingExtra: the package is not installed.
    """
    if 0 in vectors:
        raise PlanError(
            "A GGUF control vector has no layer 0: llama.cpp adds to what leaves layers from 1 on. Export to "
            ".safetensors, or steer at a later layer."
        )
    gguf = _package()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.gguf"
        writer = gguf.GGUFWriter(path, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", hint)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vectors))
        for layer, vector in sorted(vectors.items()):
            writer.add_tensor(f"direction.{layer}", vector.float().cpu().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def read_control_vector(path: Path) -> tuple[str, dict[int, Float[Tensor, " d_model"]]]:
    """The name of the architecture that a file is for, and its vectors by layer, in float32.

    Raises:
        PlanError: it cannot be read, or is no control vector.
        MissingExtra: the package is not installed.
    """
    gguf = _package()
    try:
        reader = gguf.GGUFReader(path)
        architecture = _text(reader, "general.architecture")
        hint = _text(reader, f"{ARCHITECTURE}.model_hint")
        tensors = [(one.name, one.tensor_type.name, [int(side) for side in one.shape], one) for one in reader.tensors]
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # the package raises errors of many kinds for damaged files
        raise PlanError(f"{path} is no GGUF file that can be read ({error}). Copy it again.") from error
    if architecture != ARCHITECTURE:
        raise PlanError(f"{path} is no control vector: general.architecture is {architecture!r}, not {ARCHITECTURE!r}.")
    found = {}
    for name, kind, shape, tensor in tensors:
        match = _NAME.fullmatch(name)
        if not match or int(match[1]) == 0 or len(shape) != 1 or kind not in ("F32", "F16"):
            raise PlanError(
                f"{path}: expected tensors direction.LAYER from layer 1 on, of one axis in F32, got {name} of {shape} "
                f"in {kind}."
            )
        if int(match[1]) in found:
            raise PlanError(f"{path} holds two vectors for layer {int(match[1])}. Leave one of them out.")
        found[int(match[1])] = torch.from_numpy(tensor.data.copy()).float()
    return hint or "unknown", found


def _text(reader: Any, key: str) -> str | None:
    field = reader.get_field(key)
    return None if field is None else str(field.contents())


def _package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise MissingExtra("GGUF files need the package gguf: pip install 'saesteer[gguf]'.") from error
    return gguf
