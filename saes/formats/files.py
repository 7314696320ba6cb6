"""The containers that checkpoints come in: what is in a folder, JSON, safetensors, npz, torch files, whole writes.

A container's headers are read and checked before any tensor is allocated. Nothing here executes a pickle.
"""

import io
import json
import os
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors

from saes.errors import FormatError
from saes.shapes import Tensor

TORCH = (".pt", ".pth")
FLOATS = ("F64", "F32", "F16", "BF16")
_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_NUMPY = {"float64": "F64", "float32": "F32", "float16": "F16"}


@dataclass(frozen=True)
class Found:
    """What lies at a path, before any of it is read."""

    path: Path
    """As it was asked for: a folder, or one file."""
    folder: Path
    """The folder, or the one that the file belongs to."""
    files: frozenset[str]
    """Names of what lies in the folder, one level of ``checkpoints/`` included."""

    def has(self, *names: str) -> bool:
        """Whether the folder holds all of these, and a path to a single file names one of them."""
        return self.files.issuperset(names) and (self.path == self.folder or self.path.name in _last(names))

    @cached_property
    def torch_file(self) -> Path | None:
        """The torch file asked for, or the only one of a folder that holds no other weights."""
        if self.path != self.folder:
            return self.path if self.path.suffix in TORCH else None
        if any(name.endswith((".safetensors", ".npz")) for name in self.files):
            return None
        torch_files = sorted(name for name in self.files if name.endswith(TORCH) and "/" not in name)
        chosen = [name for name in torch_files if name == "ae.pt"] or torch_files
        return self.folder / chosen[0] if len(chosen) == 1 else None

    @cached_property
    def keys(self) -> frozenset[str]:
        """Uppermost keys of the torch file; none where there is no such file."""
        return frozenset() if self.torch_file is None else frozenset(read_torch(self.torch_file))


def find(path: Path) -> Found:
    """Look at a path.

    Raises:
        FormatError: there is nothing, or it cannot be looked at.
    """
    try:
        if path.is_dir():
            folder = path
        elif path.is_file():
            above = path.parent.name == "checkpoints" and path.suffix not in TORCH
            folder = path.parent.parent if above else path.parent
        else:
            raise FormatError(f"No SAE at {path}: nothing is there. Expected the folder or the file of a checkpoint.")
        files = {one.name for one in folder.iterdir()}
        if (folder / "checkpoints").is_dir():
            files |= {f"checkpoints/{one.name}" for one in (folder / "checkpoints").iterdir()}
    except OSError as error:
        raise FormatError(f"The SAE at {path} cannot be read ({error}). Check the permissions.") from error
    return Found(path, folder, frozenset(files))


def _last(names: tuple[str, ...]) -> set[str]:
    return {name.rpartition("/")[2] for name in names}


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        FormatError: the file is missing, cannot be read, is not JSON, or holds something else than an object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error}). Copy the whole checkpoint.") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not JSON ({error}). It may be cut off: copy it again.") from error
    if not isinstance(data, dict):
        raise FormatError(f"{path} holds {type(data).__name__}, expected an object with the settings of an SAE.")
    return data


_LARGEST = torch.finfo(torch.float32).max
_KINDS: dict[type, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "true or false"),
    int: (
        lambda value: isinstance(value, int | float) and not isinstance(value, bool) and value == int(value),
        "a whole number",
    ),
    float: (
        lambda value: isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST,
        "a number within the range of float32",
    ),
    str: (lambda value: isinstance(value, str), "text"),
    list: (lambda value: isinstance(value, list), "a list"),
    dict: (lambda value: isinstance(value, dict), "an object"),
}


def setting(data: Mapping[str, Any], key: str, kind: type, path: Path, default: Any = ...) -> Any:
    """One entry of a config, of the kind that it must have; null counts as absent.

    Raises:
        FormatError: it is absent and has no default, or is of another kind.
    """
    value = data.get(key)
    if value is None:
        if default is ...:
            raise FormatError(f"{path} lacks {key}, expected {_KINDS[kind][1]}. Copy the whole checkpoint.")
        return default
    try:
        fits = _KINDS[kind][0](value)
    except (OverflowError, ValueError):  # infinity and NaN are no whole numbers
        fits = False
    if not fits:
        raise FormatError(f"{path}: {key} is {value!r}, expected {_KINDS[kind][1]}.")
    return kind(value) if kind in (int, float) else value


def choice(data: Mapping[str, Any], key: str, choices: Collection[str], path: Path, default: Any = ...) -> str:
    """One entry of a config that must be one of a few words.

    Raises:
        FormatError: it is absent and has no default, or is another word.
    """
    value = setting(data, key, str, path, default)
    if value not in choices:
        raise FormatError(f"{path}: {key} is {value!r}, which has no exact form here: read are {', '.join(choices)}.")
    return value


@dataclass(frozen=True)
class Stored:
    """The tensors of a file: shapes and dtypes are known, the contents are not read yet."""

    path: Path
    shapes: dict[str, list[int]]
    """By name of the tensor."""
    dtypes: dict[str, str]
    """As safetensors names them."""
    get: Callable[[str], Tensor]
    """The content of one."""

    def sides(self, name: str) -> tuple[int, int]:
        """Rows and columns of a matrix.

        Raises:
            FormatError: there is no such tensor, or it is no matrix.
        """
        shape = self.shapes.get(name)
        if shape is None:
            raise FormatError(
                f"{self.path} lacks the tensor {name}, expected a matrix. It holds {_listed(self.shapes)}."
            )
        if len(shape) != 2:
            raise FormatError(f"{self.path}: tensor {name} has shape {shape}, expected a matrix [rows, columns].")
        return shape[0], shape[1]

    def take(self, expected: Mapping[str, list[int]], ignored: Collection[str] = ()) -> dict[str, Tensor]:
        """The tensors of the expected names and shapes, in float32. ``ignored`` may be there and are not read.

        Raises:
            FormatError: a tensor is missing, not expected, of another shape or dtype, or not finite.
        """
        for name, shape in expected.items():
            if name not in self.shapes:
                raise FormatError(f"{self.path} lacks the tensor {name}, expected with shape {shape}. Copy it again.")
            if self.shapes[name] != shape:
                raise FormatError(
                    f"{self.path}: tensor {name} has shape {self.shapes[name]}, expected {shape}. The file does not "
                    "belong to the config beside it, or is of another format."
                )
            if self.dtypes[name] not in FLOATS:
                raise FormatError(
                    f"{self.path}: tensor {name} has dtype {self.dtypes[name]}, expected one of {', '.join(FLOATS)}. "
                    "Quantised weights are not read; convert them to float32."
                )
        if surplus := sorted(self.shapes.keys() - expected.keys() - set(ignored)):
            raise FormatError(
                f"{self.path} holds the tensor {surplus[0]} of shape {self.shapes[surplus[0]]}, which is not known "
                f"here: expected {_listed(expected)}. What it does would be lost."
            )
        tensors = {name: self.get(name).to(torch.float32) for name in expected}
        for name, tensor in tensors.items():
            if not all_finite(tensor):
                raise FormatError(f"{self.path}: tensor {name} holds NaN or infinite values.")
        return tensors

    def number(self, name: str) -> float:
        """The value of a tensor with one element.

        Raises:
            FormatError: there is no such tensor, or it has more elements.
        """
        if self.shapes.get(name) not in ([], [1]):
            raise FormatError(f"{self.path}: tensor {name} has shape {self.shapes.get(name)}, expected one number [].")
        return float(self.get(name).reshape(()))


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity. NaN is passed on by ``aminmax``, at a tenth of the time."""
    return tensor.numel() == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def safetensors_in(path: Path) -> Stored:
    """The tensors of a safetensors file.

    Raises:
        FormatError: the file is missing, cut off or of another make.
    """
    try:
        with safe_open(path, framework="pt") as file:
            headers = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
            shapes = {name: list(header.get_shape()) for name, header in headers.items()}
            dtypes = {name: header.get_dtype() for name, header in headers.items()}
    except (OSError, SafetensorError) as error:
        raise FormatError(f"{path} cannot be read ({error}). It may be cut off: copy it again.") from error

    def get(name: str) -> Tensor:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)

    return Stored(path, shapes, dtypes, get)


def npz_in(path: Path) -> Stored:
    """The arrays of a numpy ``.npz`` file. Arrays of objects, which are pickles, are refused.

    Raises:
        FormatError: the file is missing, cut off or of another make.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            headers = {info.filename.removesuffix(".npy"): _npy_header(archive, info) for info in archive.infolist()}
    except Exception as error:  # a damaged archive can fail in any way
        raise FormatError(f"{path} cannot be read ({error}). It may be cut off: copy it again.") from error

    def get(name: str) -> Tensor:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return torch.from_numpy(arrays[name])
        except Exception as error:  # as above
            raise FormatError(f"{path}: array {name} cannot be read ({error}). Copy the file again.") from error

    shapes = {name: shape for name, (shape, _) in headers.items()}
    return Stored(path, shapes, {name: dtype for name, (_, dtype) in headers.items()}, get)


def _npy_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[list[int], str]:
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size > info.file_size:
        raise ValueError(f"array {info.filename} of shape {list(shape)} needs {size} bytes, there are {info.file_size}")
    return list(shape), _NUMPY.get(dtype.name, dtype.name)


def read_torch(path: Path) -> dict[str, Any]:
    """What a torch file holds: tensors, numbers and text in dicts, and nothing else.

    Tensors of a zip file are mapped, not read, so that shapes can be checked first.

    Raises:
        FormatError: the file is missing, damaged, holds other objects, or is no dict.
    """
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error}). Check the path and the permissions.") from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise FormatError(
            f"{path} is damaged, or holds more than tensors, numbers and text ({type(error).__name__}: "
            f"{_reason(str(error))}). It is not read further, since unpickling can run code. Copy it again, or have "
            "its owner save the state dict alone."
        ) from error
    if not isinstance(contents, dict) or not all(isinstance(key, str) for key in contents):
        raise FormatError(f"{path} holds {type(contents).__name__}, expected the state dict of an SAE.")
    return dict(contents)


def _reason(told: str) -> str:
    """What torch found, without its advice to read the file unsafely, or to let it name what is safe."""
    found = told.partition("WeightsUnpickler error:")[2] or told
    return " ".join(found.split("Please use")[0].split("Check the documentation")[0].split())[:200].rstrip(". ")


def tensors_in(path: Path, contents: Mapping[str, Any]) -> Stored:
    """The tensors of (a part of) a torch file; the other entries are left to the caller.

    Raises:
        FormatError: a tensor is larger than what is stored of it.
    """
    tensors = {name: value for name, value in contents.items() if isinstance(value, torch.Tensor)}
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.itemsize:
            raise FormatError(f"{path}: tensor {name} is of shape {list(tensor.shape)}, but is not stored in full.")
    return Stored(
        path,
        {name: list(tensor.shape) for name, tensor in tensors.items()},
        {name: _DTYPES.get(tensor.dtype, str(tensor.dtype)) for name, tensor in tensors.items()},
        tensors.__getitem__,
    )


def json_bytes(data: Mapping[str, Any]) -> bytes:
    """A config as it is written."""
    return (json.dumps(data, indent=2, allow_nan=False) + "\n").encode()


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Tensors as a safetensors file holds them."""
    return to_safetensors({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)


def npz_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as an npz file holds them."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: tensor.numpy() for name, tensor in tensors.items()})
    return buffer.getvalue()


def torch_bytes(contents: Mapping[str, Any]) -> bytes:
    """A state dict as ``torch.save`` writes it."""
    buffer = io.BytesIO()
    torch.save(
        {key: value.contiguous() if isinstance(value, Tensor) else value for key, value in contents.items()}, buffer
    )
    return buffer.getvalue()


def write(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files to ``folder``, each by its name there.

    All are complete under temporary names before any gets its own, so a failure leaves what was there.

    Raises:
        FormatError: the folder cannot be written to.
    """
    try:
        with ExitStack() as stack:
            for name, content in contents.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                # written as bytes, since safetensors' own files can be read by nobody but their owner
                stack.enter_context(whole(folder / name)).write_bytes(content)
    except OSError as error:
        raise FormatError(f"The SAE cannot be written to {folder} ({error}). Choose another folder.") from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to, which becomes ``path`` when the block is done."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
