"""Packages of the ``data`` extra, imported when a source needs them."""

from importlib import import_module
from types import ModuleType

from steer.errors import DataError


def needed(module: str, reading: str) -> ModuleType:
    """The module.

    Raises:
        DataError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise DataError(f"Reading {reading} needs the package {package}: pip install 'saesteer[data]'.") from error
