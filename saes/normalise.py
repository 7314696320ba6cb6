"""Normalising each token before the encoder, to be undone after the decoder: ``x = normal * scale + shift``."""

from dataclasses import dataclass

from saes.config import InputNorm
from saes.shapes import Float, Tensor


@dataclass(frozen=True)
class Normalised:
    """Tokens as the encoder reads them, and what gives them back."""

    x: Float[Tensor, "*token d_in"]
    scale: Float[Tensor, "*token 1"] | None
    """None: 1."""
    shift: Float[Tensor, "*token 1"] | None
    """None: 0."""


def normalise(x: Float[Tensor, "*token d_in"], kind: InputNorm, eps: float) -> Normalised:
    """Apply one of the normalisations.

    ``layer_norm`` gives each token mean 0 and (nearly) unbiased standard deviation 1, as in arXiv 2406.04093: ``eps``
    is added to the deviation that tokens are divided by, and not to the one that they are multiplied by again.
    ``constant_norm`` gives each token norm sqrt(d_in).
    """
    if kind == "layer_norm":
        mean = x.mean(-1, keepdim=True)
        spread = (x - mean).std(-1, keepdim=True)
        return Normalised((x - mean) / (spread + eps), spread, mean)
    if kind == "constant_norm":
        scale = x.norm(dim=-1, keepdim=True).clamp_min(1e-12) / x.shape[-1] ** 0.5
        return Normalised(x / scale, scale, None)
    return Normalised(x, None, None)
