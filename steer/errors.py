"""Errors of the ``steer`` package.

    SteerError
    ├── ModelError    a model or tokenizer that is unknown, incomplete or of an unsupported shape (also a ValueError)
    ├── SiteError     a hook site that the model lacks, or one that never fired (also a ValueError)
    ├── PlanError     an intervention that cannot be applied: wrong width, latent out of range, ... (also a ValueError)
    ├── DataError     prompts or results that are missing, malformed or not finite (also a ValueError)
    │   ├── NotFiniteError  a model's logits are NaN or infinite
    │   ├── TooLongError  a prompt and its reply do not fit into the model's context
    │   └── IndexMismatchError  a feature index of another SAE, model or tokenizer
    ├── OutputError   a place that results cannot be written to (also a ValueError)
    ├── CheckpointError  an SAE that is not to be had by its name, or cannot be shared (also a ValueError)
    └── MissingExtra  a package of an extra that is not installed (also an ImportError)

A message says what was wrong, what was got, what was expected, and what to do about it. The command line prints the
message without a traceback and exits with code 2. Errors of the SAE itself are ``saes.errors.SaesError``.
"""


class SteerError(Exception):
    """Base of every error that ``steer`` raises on purpose."""


class ModelError(SteerError, ValueError):
    """A model or tokenizer that is unknown, incomplete or of an unsupported shape."""


class SiteError(SteerError, ValueError):
    """A hook site that the model lacks, or one that never fired."""


class PlanError(SteerError, ValueError):
    """An intervention that cannot be applied."""


class DataError(SteerError, ValueError):
    """Prompts or results that are missing, malformed or not finite."""


class NotFiniteError(DataError):
    """A model's logits are NaN or infinite."""


class TooLongError(DataError):
    """A prompt and its reply do not fit into the model's context."""


class IndexMismatchError(DataError):
    """A feature index of another SAE, model or tokenizer than the one at hand."""


class CheckpointError(SteerError, ValueError):
    """An SAE that is not to be had by its name, or cannot be shared."""


class OutputError(SteerError, ValueError):
    """A place that results cannot be written to."""


class MissingExtra(SteerError, ImportError):
    """A package of an extra that is not installed."""
