"""Decoders that are asked about again and again: the norms of their rows are kept between questions."""

from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float
from torch import Tensor

from saes import SAE
from steer.search.direction import along, row_norms

_KEPT: WeakKeyDictionary[SAE, tuple[tuple[int, int], Tensor]] = WeakKeyDictionary()


def cosines(sae: SAE, direction: Float[Tensor, " width"]) -> Float[np.ndarray, " d_sae"]:
    """``along`` of all decoder rows of an SAE; from the second question on in less than half of the time.

    Norms take 4 bytes a latent, as long as the SAE lives, and are computed again where its decoder has changed.
    ``Directions`` would take half of the decoder's memory more and two seconds to be made ready for 131,072 latents of
    2,304 dimensions, and find the thousand latents that a ranking holds only a tenth faster.

    Raises:
        DataError: the direction is zero, not finite, or of another width.
    """
    state = (sae.W_dec.data_ptr(), sae.W_dec._version)
    kept = _KEPT.get(sae)
    if kept is None or kept[0] != state:
        kept = _KEPT[sae] = (state, row_norms(sae.W_dec))
    return along(sae.W_dec, direction, kept[1]).cpu().numpy().astype(np.float64)
