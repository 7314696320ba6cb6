"""What a batch of activations must be, wherever one comes in."""

import torch

from saes.errors import ShapeError
from saes.shapes import Float, Tensor


def as_activations(x: object, d_in: int, tokens: int | None = None, look: bool = True) -> Float[Tensor, "token d_in"]:
    """A batch in float32, detached; with ``tokens`` it must have that many rows.

    Without ``look`` its values are not looked at, which waits for a GPU.

    Raises:
        ShapeError: it is no real tensor of shape [token, d_in], or holds NaN or infinite values.
    """
    if not isinstance(x, Tensor) or x.is_complex():
        got = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise ShapeError(f"A batch of activations must be a tensor of real numbers, got {got}.")
    rows = "token" if tokens is None else tokens
    if x.ndim != 2 or x.shape[1] != d_in or tokens not in (None, len(x)):
        raise ShapeError(
            f"A batch of activations must have shape [{rows}, {d_in}], got {list(x.shape)}. "
            "Put a single batch into a list: [x]."
        )
    x = x.detach().float()
    if look and not torch.isfinite(x).all():
        bad = (~torch.isfinite(x)).any(-1).sum().item()
        raise ShapeError(
            f"Activations must be finite: {bad} of {len(x)} tokens of a batch hold NaN or infinite values. "
            "Check the model's weights and its dtype (float16 overflows easily)."
        )
    return x
