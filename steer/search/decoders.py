"""Decoders that are asked about again and again: what makes the answer fast is kept from the second question on."""

from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saes import SAE
from steer.search.direction import Directions, along, row_norms
from steer.search.ranked import best_first

_KEPT: WeakKeyDictionary[SAE, tuple[tuple[int, int], Tensor | Directions]] = WeakKeyDictionary()
"""With which decoder it was made: norms after the first question, what is ready after the second."""


def nearest(
    sae: SAE, direction: Float[Tensor, " width"], limit: int, allowed: Bool[np.ndarray, " d_sae"] | None = None
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The latents, of those ``allowed``, whose rows have the largest positive cosines with a direction, and these.

    The first question of an SAE computes all cosines, and norms that are kept; with the second the decoder is made
    ready (``Directions``: half a float32 decoder's memory more), and further ones take half of the time. Both live as
    long as the SAE, and are made anew where its decoder has changed.

    Raises:
        DataError: the direction is zero, not finite, or of another width.
    """
    decoder = sae.W_dec
    state = (decoder.data_ptr(), decoder._version)
    made_with, ready = _KEPT.get(sae, (None, None))
    if made_with != state or ready is None:
        norms = row_norms(decoder)
        cosines = along(decoder, direction, norms).cpu().numpy().astype(np.float64)
        _KEPT[sae] = (state, norms)
        latents = best_first(cosines, allowed, limit)
        return latents, cosines[latents]
    if isinstance(ready, Tensor):
        ready = Directions.of(decoder, ready)
        _KEPT[sae] = (state, ready)
    return ready.nearest(direction, limit, allowed)
