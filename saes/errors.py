"""Errors of the ``saes`` package.

    SaesError
    ├── ConfigError    a setting that cannot work (also a ValueError)
    ├── ShapeError     a tensor of the wrong shape, dtype or content (also a ValueError)
    ├── FormatError    a file that is missing, damaged or of another format (also a ValueError)
    ├── DivergedError  training produced a loss or an activation that is not finite
    └── WorldError     another process of a distributed run is gone, or does not answer

A message says what was wrong, what was got, what was expected, and what to do about it.
"""

from typing import TypeVar

E = TypeVar("E", bound=BaseException)
_BY_ALL = "Every process of the run has raised this."


class SaesError(Exception):
    """Base of every error that ``saes`` raises on purpose."""


class ConfigError(SaesError, ValueError):
    """A setting that cannot work."""


class ShapeError(SaesError, ValueError):
    """A tensor of the wrong shape, dtype or content."""


class FormatError(SaesError, ValueError):
    """A file that is missing, damaged or of another format."""


class DivergedError(SaesError):
    """Training produced a loss or an activation that is not finite."""


class WorldError(SaesError):
    """Another process of a distributed run is gone, or does not answer."""


def by_all(error: BaseException) -> bool:
    """Whether every process of a run has raised this error, so that one of them need tell it."""
    return _BY_ALL in getattr(error, "__notes__", ()) or (error.__cause__ is not None and by_all(error.__cause__))


def said_by_all(error: E) -> E:
    """The error, marked as one that every process raises: a note that a traceback shows."""
    if not by_all(error):
        error.add_note(_BY_ALL)
    return error
