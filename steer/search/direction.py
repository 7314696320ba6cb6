"""Latents that write along a direction of the residual stream: cosines with all decoder rows, block by block.

``Directions`` answers many questions of one decoder fast: it holds the rows in bfloat16, half the memory to read, and
computes again exactly all that rounding could have put among the first.
"""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from torch import Tensor

from saes import SAE
from steer.checks import require_whole
from steer.errors import DataError
from steer.files import read_ordinary
from steer.search.ranked import best_first

BLOCK_ROWS = 16_384  # of the decoder at a time: what is cast to float32 stays small
_ROUNDING = 2.0**-9  # of a number in bfloat16, relative


def row_norms(decoder: Float[Tensor, "d_sae d_model"]) -> Float[Tensor, " d_sae"]:
    """Norms of the decoder's rows in float32; keep them where many directions are asked for."""
    parts = decoder.detach().split(BLOCK_ROWS)
    return torch.cat([torch.linalg.vector_norm(part, dim=-1, dtype=torch.float32) for part in parts])


@torch.no_grad()
def along(
    decoder: Float[Tensor, "d_sae d_model"],
    direction: Float[Tensor, " width"],
    norms: Float[Tensor, " d_sae"] | None = None,
) -> Float[Tensor, " d_sae"]:
    """Cosine of each decoder row with a direction, in float32, in blocks of rows; 0 for a row of zeros.

    ``norms`` are those of ``row_norms``; None: they are computed.

    Raises:
        DataError: the direction is zero, not finite, or of another width.
    """
    unit = _unit(decoder, direction)
    dots = torch.cat([part.float() @ unit for part in decoder.detach().split(BLOCK_ROWS)])
    return _over(row_norms(decoder) if norms is None else norms, dots)


@dataclass(frozen=True)
class Directions:
    """A decoder made ready for many directions."""

    decoder: Float[Tensor, "d_sae d_model"]
    norms: Float[Tensor, " d_sae"]
    rows: Float[Tensor, "d_sae d_model"]
    """The decoder in bfloat16."""

    @classmethod
    def of(cls, decoder: Float[Tensor, "d_sae d_model"], norms: Float[Tensor, " d_sae"] | None = None) -> "Directions":
        """Takes twice ``d_sae * d_model`` bytes besides the decoder, unless that is in bfloat16 already.

        ``norms`` are those of ``row_norms``; None: they are computed.
        """
        decoder = decoder.detach()
        return cls(decoder, row_norms(decoder) if norms is None else norms, decoder.to(torch.bfloat16))

    @torch.no_grad()
    def nearest(
        self,
        direction: Float[Tensor, " width"],
        limit: int = 20,
        allowed: Bool[np.ndarray, " d_sae"] | None = None,
    ) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """The latents, of those ``allowed``, with the largest positive cosines, and these, the largest first.

        They are what ``along`` gives for all of them. A cosine from rows and a direction in bfloat16 is off by at most
        two roundings of the products, whose sizes sum to at most 1, and one of the sum. So no latent further below the
        ``limit``-th than twice that can be among the first, and the others are computed again.

        Raises:
            DataError: see ``along``; or ``limit`` is below 1.
        """
        require_whole("limit", limit, DataError)
        unit = _unit(self.decoder, direction)
        rough = _over(self.norms, (self.rows @ unit.to(torch.bfloat16)).float())
        if allowed is not None:
            rough[~torch.from_numpy(allowed).to(rough.device)] = -torch.inf
        last = rough.topk(min(limit, len(rough))).values[-1]
        slack = 2 * (3 * _ROUNDING + _ROUNDING**2 + 1e-4)  # 1e-4: sums in float32 of thousands of products
        near = (rough >= (last - slack).clamp(min=-slack)).nonzero().squeeze(1)
        exact = along(self.decoder[near], direction, self.norms[near]).cpu().numpy().astype(np.float64)
        order = best_first(exact, None, limit)
        return near.cpu().numpy()[order], exact[order]


def _over(norms: Float[Tensor, " row"], dots: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
    """Products with rows as cosines; 0 for a row of zeros."""
    return torch.where(norms > 0, dots / norms.clamp(min=torch.finfo(torch.float32).tiny), dots.new_zeros(()))


def _unit(decoder: Float[Tensor, "d_sae d_model"], direction: Float[Tensor, " width"]) -> Float[Tensor, " d_model"]:
    """The direction at length one, in float32, where the decoder is.

    Raises:
        DataError: it is zero, not finite, or of another width.
    """
    if direction.shape != decoder.shape[1:]:
        raise DataError(
            f"The direction has shape {list(direction.shape)}, but the SAE writes {decoder.shape[1]} dimensions. Use "
            "one of the model and the site that the SAE was trained on."
        )
    exact = direction.detach().to(decoder.device, torch.float64)
    length = exact.norm().item()
    if not isfinite(length) or length == 0:
        raise DataError(f"A direction must be finite and not zero, got one of norm {length}.")
    return (exact / length).float()


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
    data = read_ordinary(path)
    try:
        tensors = from_safetensors(data)
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
