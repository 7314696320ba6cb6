"""What the caller knows about a checkpoint that its files may not say."""

import sys
from dataclasses import dataclass
from pathlib import Path

from saes.config import SAEConfig, shortened
from saes.errors import ConfigError, FormatError


@dataclass(frozen=True)
class Given:
    """Facts beside the files; None: nothing is known."""

    k: int | None = None
    """Latents active on one token."""
    input_scale: float | None = None
    """Factor that activations were multiplied by in training."""
    model: str | None = None
    """Name of the language model; goes before what the files say."""
    site: str | None = None
    """Where in the model the SAE reads; goes before what the files say."""

    def __post_init__(self) -> None:
        if self.k is not None and (type(self.k) is not int or self.k < 1):
            raise ConfigError(f"k must be a whole number of at least 1, got {self.k!r}.")
        scale = self.input_scale
        if scale is not None and (type(scale) not in (int, float) or not 0 < scale <= sys.float_info.max):
            raise ConfigError(f"input_scale must be a positive number, got {shortened(scale)}.")
        for name in ("model", "site"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value.strip()):
                raise ConfigError(f"{name} must be a name, got {value!r}. Leave it out for what the files say.")

    def k_beside(self, stated: int | None, path: Path) -> int:
        """The k that a file states, or that was given.

        Raises:
            FormatError: neither says it, or they differ.
        """
        if stated is None and self.k is None:
            raise FormatError(f"{path} does not say how many latents are active on a token. Give k=... when loading.")
        if None not in (stated, self.k) and stated != self.k:
            raise FormatError(f"{path} says k = {stated}, but k = {self.k} was given. Leave k out.")
        return self.k if stated is None else stated  # type: ignore[return-value]  # one of them is a number

    def scale_beside(self, stated: float | None, path: Path, key: str) -> float:
        """The factor of the inputs as a file states it, or as it was given.

        Raises:
            FormatError: neither says it, they differ, or it is not positive and finite.
        """
        if stated is None and self.input_scale is None:
            raise FormatError(
                f"{path} says that activations were scaled in training, but {key} is missing, so by how much is not "
                "known. Give input_scale=... when loading: sqrt(d_in) over the mean norm of the activations."
            )
        if None not in (stated, self.input_scale) and stated != self.input_scale:
            raise FormatError(f"{path} says input_scale {stated}, but {self.input_scale} was given. Leave it out.")
        scale = self.input_scale if stated is None else stated
        if not isinstance(scale, int | float) or not 0 < scale <= sys.float_info.max:
            raise FormatError(f"{path}: {key} gives an input scale of {scale!r}, expected a positive number.")
        return float(scale)

    def require_heeded(self, config: SAEConfig, path: Path) -> None:
        """See that ``k`` and ``input_scale`` are those of the SAE that was read: none was passed over.

        Raises:
            FormatError: one is not, since the files say another, or have no use for it.
        """
        for name in ("k", "input_scale"):
            asked, found = getattr(self, name), getattr(config, name)
            if asked is not None and asked != found:
                said = f"The SAE at {path} has {name} = {found}" if found is not None else f"The SAE at {path} has no k"
                raise FormatError(
                    f"{said} ({config.activation}), but {name} = {asked} was given, which counts only where the files "
                    f"do not say it. Leave {name} out."
                )
