"""Which latents write along a direction: cosines with all decoder rows, block by block."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steer.checks import require_whole
from steer.errors import DataError

BLOCK_ROWS = 16_384  # of the decoder at a time: what is cast to float32 stays small


def row_norms(decoder: Float[Tensor, "d_sae d_model"]) -> Float[Tensor, " d_sae"]:
    """Norms of the decoder's rows in float32; keep them where many directions are asked for."""
    parts = decoder.detach().split(BLOCK_ROWS)
    return torch.cat([torch.linalg.vector_norm(part, dim=-1, dtype=torch.float32) for part in parts])


def along(
    decoder: Float[Tensor, "d_sae d_model"],
    direction: Float[Tensor, " d_model"],
    norms: Float[Tensor, " d_sae"] | None = None,
) -> Float[Tensor, " d_sae"]:
    """Cosine of each decoder row with a direction, in float32; 0 for a row of zeros.

    ``norms`` are those of ``row_norms``; None: they are computed.

    Raises:
        DataError: the direction is zero, not finite, or of another width.
    """
    if direction.shape != decoder.shape[1:]:
        raise DataError(f"A direction of {decoder.shape[1]} dimensions is needed, got shape {list(direction.shape)}.")
    unit = direction.detach().to(decoder.device, torch.float32)
    length = torch.linalg.vector_norm(unit)
    if not bool(length.isfinite()) or float(length) == 0.0:
        raise DataError("A direction must be finite and not zero.")
    dots = torch.cat([part.float() @ (unit / length) for part in decoder.detach().split(BLOCK_ROWS)])
    norms = row_norms(decoder) if norms is None else norms
    return torch.where(norms > 0, dots / norms.clamp(min=torch.finfo(torch.float32).tiny), dots.new_zeros(()))


def nearest(
    decoder: Float[Tensor, "d_sae d_model"],
    direction: Float[Tensor, " d_model"],
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
