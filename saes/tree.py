"""Nested states as JSON and tensors apart: the one for ``json``, the other for safetensors."""

from collections.abc import Mapping
from typing import Any

import torch

from saes.errors import ConfigError
from saes.shapes import Tensor

MARK = "__tensor__"


def split(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """The tree as JSON data, with names in place of tensors, and the tensors by name, contiguous and on the CPU.

    Raises:
        ConfigError: something in it is neither JSON data nor a tensor; its place is named.
    """
    tensors: dict[str, Tensor] = {}
    return _without_tensors(tree, "state", tensors), tensors


def join(data: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree again; tuples have become lists.

    Raises:
        KeyError: a tensor is missing.
    """
    if isinstance(data, dict):
        return tensors[data[MARK]] if MARK in data else {key: join(value, tensors) for key, value in data.items()}
    return [join(value, tensors) for value in data] if isinstance(data, list) else data


def _without_tensors(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, torch.Tensor):
        name = f"{len(tensors)}:{path}"
        kept = tree.detach().cpu().contiguous()
        taken = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
        tensors[name] = kept.clone() if kept.untyped_storage().data_ptr() in taken else kept
        return {MARK: name}
    if isinstance(tree, Mapping) and all(isinstance(key, str) for key in tree) and MARK not in tree:
        return {key: _without_tensors(value, f"{path}.{key}", tensors) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_without_tensors(value, f"{path}[{number}]", tensors) for number, value in enumerate(tree)]
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise ConfigError(
        f"A state is kept as JSON data and tensors, in dicts whose keys are text and in lists: {path} is a "
        f"{type(tree).__name__}. Let state() give its content instead."
    )
