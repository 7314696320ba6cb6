"""Latents that write along a direction of the residual stream."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from torch import Tensor

from saes import SAE
from steer.errors import DataError

_BLOCK = 2**24  # numbers of W_dec at a time: 64 MiB


@torch.no_grad()
def cosines(W_dec: Float[Tensor, "d_sae d_out"], direction: Float[Tensor, " d_out"]) -> Float[np.ndarray, " d_sae"]:
    """Cosine between what each latent writes and a direction, in blocks of latents; 0 for a latent that writes nothing.

    Raises:
        DataError: the direction is of another width, zero, or not finite.
    """
    wanted = direction.detach().to(W_dec.device, torch.float32)
    if wanted.shape != (W_dec.shape[1],):
        raise DataError(
            f"The direction has shape {list(direction.shape)}, but the SAE writes {W_dec.shape[1]} dimensions. Use "
            f"one of "
            "the model and the site that the SAE was trained on."
        )
    norm = wanted.double().norm().item()
    if not np.isfinite(norm) or norm == 0:
        raise DataError(f"A direction must be finite and not zero, got one of norm {norm}.")
    unit = (wanted.double() / norm).to(torch.float32)
    found = []
    for rows in W_dec.detach().split(max(1, _BLOCK // W_dec.shape[1])):
        block = rows.float()
        found.append((block @ unit) / torch.linalg.vector_norm(block, dim=1).clamp_min(1e-30))
    cosine: Float[np.ndarray, " d_sae"] = torch.cat(found).cpu().numpy().astype(np.float64)
    return cosine


def row_of(sae: SAE, latent: int) -> Float[Tensor, " d_out"]:
    """What a latent writes.

    Raises:
        DataError: the SAE has no such latent.
    """
    if not 0 <= latent < sae.config.d_sae:
        raise DataError(f"Latent {latent} is out of range: the SAE has {sae.config.d_sae}, numbered from 0.")
    return sae.W_dec.detach()[latent]


def read_direction(path: str | Path, name: str | None = None) -> Float[Tensor, " d_model"]:
    """The vector in a safetensors file, or that tensor of it that is called ``name``.

    Raises:
        DataError: the file cannot be read, or holds not one such vector.
    """
    path = Path(path)
    try:
        tensors = from_safetensors(path.read_bytes())
    except OSError as error:
        raise DataError(f"The direction in {path} cannot be read: {error.strerror or error}.") from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{path} is no safetensors file ({error}).") from error
    vectors = {key: tensor.squeeze() for key, tensor in tensors.items() if tensor.squeeze().ndim == 1}
    if name is not None:
        if name not in vectors:
            raise DataError(f"{path} holds no vector {name!r}: it holds {', '.join(sorted(vectors)) or 'none'}.")
        return vectors[name].float()
    if len(vectors) != 1:
        listed = ", ".join(sorted(vectors)) or "none"
        raise DataError(f"{path} must hold one vector, or be named as FILE:TENSOR; it holds {listed}.")
    return next(iter(vectors.values())).float()
