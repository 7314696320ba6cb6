"""What the caller knows about a checkpoint that its files may not say."""

from dataclasses import dataclass
from pathlib import Path

from saes.errors import FormatError


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
        if not isinstance(scale, int | float) or not 0 < scale < float("inf"):
            raise FormatError(f"{path}: {key} gives an input scale of {scale!r}, expected a positive number.")
        return float(scale)
