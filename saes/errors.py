"""Errors of the ``saes`` package.

    SaesError
    ├── ConfigError    a setting that cannot work (also a ValueError)
    ├── ShapeError     a tensor of the wrong shape, dtype or content (also a ValueError)
    ├── FormatError    a file that is missing, damaged or of another format (also a ValueError)
    ├── DivergedError  training produced a loss or an activation that is not finite
    └── WorldError     another process of a distributed run is gone, or does not answer

A message says what was wrong, what was got, what was expected, and what to do about it.
"""


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
