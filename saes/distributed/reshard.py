"""The latents of one rank, from checkpoints that were divided in another way; and the whole SAE, as one file."""

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from saes.checkpoints import digest_of_file, to_disk, writing
from saes.formats import native
from saes.formats.files import whole
from saes.shapes import Tensor
from saes.training import PER_LATENT

CHUNK_ELEMENTS = 2**24  # in memory at a time


@dataclass(frozen=True)
class Part:
    """What a checkpoint holds of some latents: ``Fitting.state`` and the weights of ``Fitting.folded``."""

    latents: range
    state: Mapping[str, Any]
    folded: Mapping[str, Tensor]


def of_latents(parts: Sequence[Part], wanted: range) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """State and weights of the wanted latents; what all latents share is taken from the first part."""
    if len(parts) == 1 and parts[0].latents == wanted:
        return dict(parts[0].state), dict(parts[0].folded)

    def cut(name: str, tensors: Sequence[Tensor], axis: int) -> Tensor:
        return _cut(tensors, [one.latents for one in parts], wanted, axis) if name in PER_LATENT else tensors[0]

    def weights(every: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        axes = {name: 1 if name == "W_enc" else 0 for name, one in every[0].items() if one.ndim}
        whole = {name: tensor for name, tensor in every[0].items() if not tensor.ndim}  # batch_topk has one threshold
        return whole | {name: cut(name, [one[name] for one in every], axis) for name, axis in axes.items()}

    first = parts[0].state
    trainings = [one.state["training"] for one in parts]
    moments = {
        name: {kind: cut(name, [one["moments"][name][kind] for one in trainings], 0) for kind in kept}
        for name, kept in trainings[0]["moments"].items()
    }
    silent = _cut([one["silent_tokens"] for one in trainings], [one.latents for one in parts], wanted, 0)
    training = {**trainings[0], "silent_tokens": silent, "moments": moments, "most_dead": None}
    return {**first, "training": training, "weights": weights([one.state["weights"] for one in parts])}, weights(
        [one.folded for one in parts]
    )


def write_whole(shards: Sequence[Path], folder: Path) -> None:
    """Write one SAE from the files of its shards, without holding more than a chunk of it in memory.

    ``folder`` gets the config that lies beside the shards. Both files are complete under temporary names before either
    gets its own, so a failure leaves what was there; other files in the folder are left alone, and weights that are
    there already are not written again.

    Raises:
        FormatError: the folder cannot be written to.
    """
    config = (shards[0].parent / native.CONFIG).read_text(encoding="utf-8")
    weights, told = folder / native.WEIGHTS, folder / native.CONFIG
    with writing(folder), ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        files = [stack.enter_context(safe_open(path, framework="pt")) for path in shards]
        shapes = {
            name: _whole_shape(name, [file.get_slice(name).get_shape() for file in files])
            for name in files[0].keys()  # noqa: SIM118  # it is no dict
        }
        header, size = _header(config, shapes)
        there = digest_of_file(weights) if weights.is_file() and weights.stat().st_size == size else None
        with whole(told) as new_told, ExitStack() as before:  # the config gets its name after the weights
            digest = there and _digest(_contents(header, shapes, files))
            if digest is None or digest != there:
                digest = _written(_contents(header, shapes, files), before.enter_context(whole(weights)))
            new_told.write_text(native.with_digest(config, digest), encoding="utf-8")
            to_disk(new_told)
        to_disk(folder)


def _header(config: str, shapes: Mapping[str, list[int]]) -> tuple[bytes, int]:
    """The head of a safetensors file of float32 tensors, and the size of the whole file in bytes."""
    header: dict[str, Any] = {"__metadata__": {native.CONFIG: config}}
    start = 0
    for name, shape in shapes.items():
        stop = start + 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + start


def _digest(pieces: Iterable[bytes | memoryview]) -> str:
    found = hashlib.sha256()
    for data in pieces:
        found.update(data)
    return found.hexdigest()


def _written(pieces: Iterable[bytes | memoryview], path: Path) -> str:
    """Write a file and bring it to the disk; its digest."""
    found = hashlib.sha256()
    with path.open("wb") as out:
        for data in pieces:
            out.write(data)
            found.update(data)
    to_disk(path)
    return found.hexdigest()


def _sweep(folder: Path) -> None:
    """Remove what killed runs left under temporary names, which end with the number of the process."""
    for name in (native.WEIGHTS, native.CONFIG):
        for left in folder.glob(f".{name}.*"):
            if left.suffix[1:].isdigit() and not left.is_dir():
                left.unlink()


def _cut(tensors: Sequence[Tensor], held: Sequence[range], wanted: range, axis: int) -> Tensor:
    """The wanted rows (or columns) of tensors that hold some each."""
    pieces = []
    for tensor, rows in zip(tensors, held, strict=True):
        first, last = max(rows.start, wanted.start), min(rows.stop, wanted.stop)
        if first < last:
            pieces.append(tensor.narrow(axis, first - rows.start, last - first))
    return torch.cat(pieces, axis)


def _whole_shape(name: str, shapes: Sequence[list[int]]) -> list[int]:
    shape = list(shapes[0])
    if name in PER_LATENT and shape:
        axis = 1 if name == "W_enc" else 0
        shape[axis] = sum(one[axis] for one in shapes)
    return shape


def _contents(header: bytes, shapes: Mapping[str, list[int]], files: Sequence[Any]) -> Iterator[bytes | memoryview]:
    """A safetensors file in pieces."""
    yield header
    for name, shape in shapes.items():
        for chunk in _chunks(name, files, shape):
            yield memoryview(chunk.contiguous().numpy()).cast("B")


def _chunks(name: str, files: Sequence[Any], shape: list[int]) -> Any:
    """A tensor of the whole in pieces, in the order of the file."""
    if name not in PER_LATENT or not shape:
        yield files[0].get_tensor(name)
        return
    rows = max(1, CHUNK_ELEMENTS // max(1, torch.Size(shape[1:]).numel()))
    if name == "W_enc":
        for start in range(0, shape[0], rows):
            yield torch.cat([file.get_slice(name)[start : start + rows] for file in files], 1)
        return
    for file in files:
        part = file.get_slice(name)
        for start in range(0, part.get_shape()[0], rows):
            yield part[start : start + rows]
