"""What a batch of activations must be, wherever one comes in, and what all batches of a stream have in common."""

from collections.abc import Mapping
from typing import Any

import torch

from saes.config import SAEConfig
from saes.errors import ConfigError, ShapeError
from saes.shapes import Float, Tensor


def as_activations(x: object, d_in: int, tokens: int | None = None, look: bool = True) -> Float[Tensor, "token d_in"]:
    """A batch in float32, detached; with ``tokens`` it must have that many rows.

    Without ``look`` its values are not looked at, which waits for a GPU.

    Raises:
        ShapeError: it is no dense tensor that holds floating-point numbers, of shape [token, d_in], or holds NaN or
            infinite values.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.layout != torch.strided or x.is_meta:
        got = f"a tensor of {x.dtype} ({x.layout}, {x.device})" if isinstance(x, Tensor) else type(x).__name__
        raise ShapeError(
            f"A batch of activations must be a dense tensor of floating-point numbers, got {got}. {_remedy(x)}"
        )
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


def _remedy(x: object) -> str:
    """What to do with what is no batch of activations."""
    if isinstance(x, Tensor) and x.layout != torch.strided:
        return "Make it dense where it is made: x.to_dense()."
    if isinstance(x, Tensor) and x.is_meta:
        return "The device meta holds no numbers: compute it on cpu or cuda."
    return "Convert it where it is made: torch.as_tensor(x, dtype=torch.float32)."


def at_site(batch: object, site: str | None, config: SAEConfig) -> Any:
    """The activations of a batch at a site: of a dict those of this name, of another batch all.

    Raises:
        ConfigError: the batch lacks the site, or a transcoder's is no dict.
    """
    if not isinstance(batch, Mapping):
        if config.site_out is not None:
            raise ConfigError(
                f"A transcoder from {config.site} to {config.site_out} needs both sites of each batch, got one tensor. "
                "Give batches as dicts from the site's name to a tensor."
            )
        return batch
    by_name = {str(key): tensor for key, tensor in batch.items()}
    if site is None and len(by_name) == 1:
        return next(iter(by_name.values()))
    if site not in by_name:
        raise ConfigError(
            f"The SAE's site is {site!r}, but the batches hold {', '.join(by_name) or 'nothing'}. "
            "Name one of them in the SAE's config, or read that site."
        )
    return by_name[site]


class Alike:
    """Sees that the batches of a stream are on one device, and those of one site in one dtype, as the first one is.

    A stream that changes is a mistake further up, and casting would hide it: values lose bits, or a whole run its pace.
    """

    def __init__(self, dtypes: dict[str, str] | None = None) -> None:
        self.dtypes = dict(dtypes or {})
        """As torch writes them, by site; where there is one site, its name is empty."""
        self._device: torch.device | None = None

    def require(self, x: object, site: str = "") -> None:
        """Look at a batch; what is no tensor is left to ``as_activations``.

        Raises:
            ShapeError: its device or dtype is another than that of the first.
        """
        if not isinstance(x, Tensor):
            return
        device, dtype = self._device or x.device, self.dtypes.setdefault(site, str(x.dtype))
        self._device = device
        if x.device != device:
            raise ShapeError(
                f"All activations of a stream are on one device: got {x.device}, expected {device}, as the first were. "
                "Move the batches to one."
            )
        if str(x.dtype) != dtype:
            raise ShapeError(
                f"All activations of a stream have one dtype: got {x.dtype}{f' at {site}' if site else ''}, expected "
                f"{dtype}, as the first had. Convert them where they are made."
            )


def ended_early(there: int, total_tokens: int, batch_tokens: int) -> str:
    """The message about a stream that ends before the training does; ``there`` is what it gave, in tokens."""
    return (
        f"The activations ended early: there were {there:,} tokens that count, but total_tokens is {total_tokens:,} in "
        f"batches of {batch_tokens:,}. Give more text, read it again (`steer train --repeat`), or lower total_tokens "
        "(and batch_tokens)."
    )


def require_iterable(batches: object) -> None:
    """See that something can be read as a stream at all.

    Raises:
        ConfigError: it cannot be iterated over, or what comes out would be no batches (of text, or of one dict).
    """
    if isinstance(batches, str | bytes | Mapping) or not (
        hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
    ):
        raise ConfigError(
            "batches must be an iterable of tensors [token, d_in], or of dicts from a site's name to one, "
            f"got {type(batches).__name__}. Put a single batch into a list: [x]."
        )
