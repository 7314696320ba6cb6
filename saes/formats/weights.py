"""An SAE's tensors in the one form that all formats are brought to, and exact rewritings of it.

Each function returns new weights that give the same reconstructions: what a format does to activations besides is
folded into the weights, so that the SAE reads raw activations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from saes.config import SAEConfig
from saes.errors import ConfigError, FormatError, ShapeError
from saes.formats.files import all_finite
from saes.formats.given import Given
from saes.sae import SAE
from saes.shapes import Float, Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""In which files hold weights."""


@dataclass(frozen=True)
class Weights:
    """The tensors of ``saes.sae.SAE``, and whether the encoder reads the input less ``b_dec``."""

    W_enc: Float[Tensor, "d_in d_sae"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_enc: Float[Tensor, " d_sae"]
    b_dec: Float[Tensor, " d_out"]
    threshold: Float[Tensor, "*d_sae"] | None = None
    """One for each latent, or one for all; None: the activation has none."""
    W_skip: Float[Tensor, "d_in d_out"] | None = None
    subtract_b_dec: bool = False


def build(weights: Weights, path: Path, given: Given, **config: Any) -> SAE:
    """The SAE of these weights; ``config`` holds the fields of SAEConfig that the tensors do not tell.

    Raises:
        FormatError: the fields do not go together, or a weight is not finite any more.
    """
    (d_in, d_sae), d_out = weights.W_enc.shape, weights.W_dec.shape[1]
    config |= {name: value for name in ("model", "site") if (value := getattr(given, name)) is not None}
    try:
        settings = SAEConfig(
            d_in,
            d_sae,
            d_out=None if d_out == d_in else d_out,
            skip=weights.W_skip is not None,
            subtract_b_dec=weights.subtract_b_dec,
            **config,
        )
    except ConfigError as error:
        raise FormatError(f"{path}: {error}") from error
    names = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold", "W_skip")
    tensors = {name: tensor for name in names if (tensor := getattr(weights, name)) is not None}
    for name, tensor in tensors.items():
        if not all_finite(tensor):
            raise FormatError(
                f"{path}: with the scales folded, {name} is no longer finite. Check the scales in the file."
            )
    return SAE.from_tensors(settings, tensors).requires_grad_(False)


def weights_of(sae: SAE) -> Weights:
    """The weights of an SAE, on the CPU in float32."""
    tensors = {name: tensor.detach().cpu().float() for name, tensor in sae.state_dict().items()}
    return Weights(**tensors, subtract_b_dec=sae.config.subtract_b_dec)


def stored_as(contents: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Weights and biases in the dtype of a file; thresholds stay float32, and what is no such tensor stays as it is.

    Raises:
        ConfigError: weights are not stored in this dtype.
        ShapeError: a number is too large for it.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}.")
    stored: dict[str, Any] = {}
    for name, value in contents.items():
        is_weight = isinstance(value, Tensor) and value.is_floating_point()
        stored[name] = value.to(torch.float32 if name == "threshold" else dtype) if is_weight else value
        if is_weight and not all_finite(stored[name]):
            raise ShapeError(f"{name} holds numbers that are too large for {dtype}. Store it in float32 or bfloat16.")
    return stored


def reading(weights: Weights, subtract_b_dec: bool) -> Weights:
    """The same SAE written with, or without, ``b_dec`` subtracted from the input; ``b_enc`` takes the difference."""
    if weights.subtract_b_dec == subtract_b_dec:
        return weights
    shift = (weights.b_dec.double() @ weights.W_enc.double()) * (1 if subtract_b_dec else -1)
    return replace(weights, b_enc=(weights.b_enc.double() + shift).float(), subtract_b_dec=subtract_b_dec)


def unscaled(weights: Weights, scale_in: float, scale_out: float | None = None) -> Weights:
    """Weights for raw activations, from weights for inputs (and outputs) multiplied by a factor.

    Latents keep the values that they have on the multiplied inputs, so ``b_enc`` and thresholds stay.
    """
    scale_out = scale_in if scale_out is None else scale_out
    if scale_in != scale_out:
        weights = reading(weights, subtract_b_dec=False)
    return replace(
        weights,
        W_enc=weights.W_enc * scale_in,
        W_dec=weights.W_dec / scale_out,
        b_dec=weights.b_dec / scale_out,
        W_skip=None if weights.W_skip is None else weights.W_skip * (scale_in / scale_out),
    )


def unwhitened(
    weights: Weights,
    mean: Float[Tensor, " d_in"],
    matrix: Float[Tensor, "d_in d_in"],
    inverse: Float[Tensor, "d_in d_in"],
) -> Weights:
    """Weights for raw activations x, from weights for ``(x - mean) matrix`` (arXiv 2511.13981)."""
    W_enc = matrix.double() @ weights.W_enc.double()
    # where b_dec is subtracted it carries the mean along
    shift = 0 if weights.subtract_b_dec else mean.double() @ W_enc
    return replace(
        weights,
        W_enc=W_enc.float(),
        W_dec=(weights.W_dec.double() @ inverse.double()).float(),
        b_enc=(weights.b_enc.double() - shift).float(),
        b_dec=(weights.b_dec.double() @ inverse.double() + mean.double()).float(),
    )


def unit_rows(weights: Weights) -> Weights:
    """Weights with decoder rows of norm 1. Latents take on the norms; a threshold must be in those units already."""
    norms = weights.W_dec.double().norm(dim=-1).clamp_min(1e-8).float()
    return replace(
        weights,
        W_enc=weights.W_enc * norms,
        W_dec=weights.W_dec / norms.unsqueeze(-1),
        b_enc=weights.b_enc * norms,
    )


def ungated(
    W_enc: Float[Tensor, "d_in d_sae"],
    r_mag: Float[Tensor, " d_sae"],
    b_mag: Float[Tensor, " d_sae"],
    b_gate: Float[Tensor, " d_sae"],
) -> tuple[Float[Tensor, "d_in d_sae"], Float[Tensor, " d_sae"], Float[Tensor, " d_sae"]]:
    """``W_enc``, ``b_enc`` and ``threshold`` of the JumpReLU SAE that equals a gated one (arXiv 2404.16014).

    The gate ``x W_enc + b_gate > 0`` is the comparison of the magnitude's pre-activation with the threshold. A
    threshold may be negative: then the gate is open wherever the magnitude is positive.
    """
    gain = r_mag.exp()
    return W_enc * gain, b_mag, b_mag - gain * b_gate
