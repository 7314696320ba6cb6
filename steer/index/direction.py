"""Which latents write along a direction: cosines with all decoder rows, block by block.

``Directions`` answers many questions of one decoder fast: it holds the rows at length one in bfloat16, half the memory
to read, and computes again exactly all that rounding could have put among the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steer.checks import require_whole
from steer.errors import DataError

BLOCK_ROWS = 16_384  # of the decoder at a time: what is cast to float32 stays small
_ROUNDING = 2.0**-9  # of a number in bfloat16, relative


def row_norms(decoder: Float[Tensor, "d_sae d_model"]) -> Float[Tensor, " d_sae"]:
    """Norms of the decoder's rows in float32; keep them where many directions are asked for."""
    parts = decoder.detach().split(BLOCK_ROWS)
    return torch.cat([torch.linalg.vector_norm(part, dim=-1, dtype=torch.float32) for part in parts])


def along(
    decoder: Float[Tensor, "d_sae d_model"],
    direction: Float[Tensor, " width"],
    norms: Float[Tensor, " d_sae"] | None = None,
) -> Float[Tensor, " d_sae"]:
    """Cosine of each decoder row with a direction, in float32; 0 for a row of zeros.

    ``norms`` are those of ``row_norms``; None: they are computed.

    Raises:
        DataError: the direction is zero, not finite, or of another width.
    """
    unit = _unit(decoder, direction)
    dots = torch.cat([part.float() @ unit for part in decoder.detach().split(BLOCK_ROWS)])
    norms = row_norms(decoder) if norms is None else norms
    return torch.where(norms > 0, dots / norms.clamp(min=torch.finfo(torch.float32).tiny), dots.new_zeros(()))


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
        raise DataError(f"A direction of {decoder.shape[1]} dimensions is needed, got shape {list(direction.shape)}.")
    given = direction.detach().to(decoder.device, torch.float32)
    length = torch.linalg.vector_norm(given)
    if not bool(length.isfinite()) or float(length) == 0.0:
        raise DataError("A direction must be finite and not zero.")
    return given / length
