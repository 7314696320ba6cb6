"""Latents that write along a direction of the residual stream: cosines with all decoder rows, block by block.

``Directions`` answers many questions of one decoder fast: it holds the rows at length one in bfloat16, half the memory
to read, and computes again exactly all that rounding could have put among the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from torch import Tensor

from saes import SAE
from steer.checks import require_whole
from steer.errors import DataError
from steer.files import read_ordinary

BLOCK_ROWS = 16_384  # of the decoder at a time: what is cast to float32 stays small
_NORMS: WeakKeyDictionary[SAE, tuple[tuple[int, int], Tensor]] = WeakKeyDictionary()
"""Norms of the decoder's rows of SAEs that were asked about, and the state of the decoder that they are of."""
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
    norms = row_norms(decoder) if norms is None else norms
    return torch.where(norms > 0, dots / norms.clamp(min=torch.finfo(torch.float32).tiny), dots.new_zeros(()))


def cosines(sae: SAE, direction: Float[Tensor, " width"]) -> Float[np.ndarray, " d_sae"]:
    """``along`` of all decoder rows of an SAE; from the second question on in less than half of the time.

    Norms take 4 bytes a latent, as long as the SAE lives, and are computed again where its decoder has changed.
    ``Directions`` would take half of the decoder's memory more and two seconds to be made ready for 131,072 latents of
    2,304 dimensions, and find the thousand latents that a ranking holds only a tenth faster.

    Raises:
        DataError: the direction is zero, not finite, or of another width.
    """
    state = (sae.W_dec.data_ptr(), sae.W_dec._version)
    kept = _NORMS.get(sae)
    if kept is None or kept[0] != state:
        kept = _NORMS[sae] = (state, row_norms(sae.W_dec))
    return along(sae.W_dec, direction, kept[1]).cpu().numpy().astype(np.float64)


def nearest(
    decoder: Float[Tensor, "d_sae d_model"],
    direction: Float[Tensor, " width"],
    limit: int = 20,
    norms: Float[Tensor, " d_sae"] | None = None,
    leave_out: Sequence[int] = (),
) -> list[tuple[int, float]]:
    """The latents whose decoder rows have the largest cosine with a direction, the largest first.

    Raises:
        DataError: see ``along``; or ``limit`` is below 1.
    """
    require_whole("limit", limit, DataError)
    cosines = along(decoder, direction, norms)
    cosines[list(leave_out)] = -torch.inf
    found = cosines.topk(min(limit, len(cosines) - len(set(leave_out))))
    return list(zip(found.indices.tolist(), found.values.tolist(), strict=True))


@dataclass(frozen=True)
class Directions:
    """A decoder made ready for many directions."""

    decoder: Float[Tensor, "d_sae d_model"]
    norms: Float[Tensor, " d_sae"]
    rows: Float[Tensor, "d_sae d_model"]
    """The decoder's rows at length one, in bfloat16; zeros stay zeros."""

    @classmethod
    def of(cls, decoder: Float[Tensor, "d_sae d_model"]) -> "Directions":
        """Takes twice ``d_sae * d_model`` bytes besides the decoder."""
        norms = row_norms(decoder)
        rows = torch.empty(decoder.shape, dtype=torch.bfloat16, device=decoder.device)
        for first in range(0, len(decoder), BLOCK_ROWS):
            here = slice(first, first + BLOCK_ROWS)
            rows[here] = decoder.detach()[here].float() / norms[here, None].clamp(min=torch.finfo(torch.float32).tiny)
        return cls(decoder.detach(), norms, rows)

    def nearest(
        self, direction: Float[Tensor, " width"], limit: int = 20, leave_out: Sequence[int] = ()
    ) -> list[tuple[int, float]]:
        """What the function ``nearest`` gives.

        A cosine from rows and a direction in bfloat16 is off by at most two roundings of the products, whose sizes sum
        to at most 1, and one of the sum. So no latent further below the ``limit``-th than twice that can be among the
        first, and the others are computed again.

        Raises:
            DataError: see ``along``; or ``limit`` is below 1.
        """
        require_whole("limit", limit, DataError)
        unit = _unit(self.decoder, direction)
        rough = (self.rows @ unit.to(torch.bfloat16)).float()
        rough[list(leave_out)] = -torch.inf
        last = rough.topk(min(limit, len(rough) - len(set(leave_out)))).values[-1]
        slack = 2 * (3 * _ROUNDING + _ROUNDING**2 + 1e-4)  # 1e-4: sums in float32 of thousands of products
        near = (rough >= last - slack).nonzero().squeeze(1)
        exact = along(self.decoder[near], direction, self.norms[near])
        found = exact.topk(min(limit, len(near)))
        return list(zip(near[found.indices].tolist(), found.values.tolist(), strict=True))


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
