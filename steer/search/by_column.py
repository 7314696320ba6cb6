"""Latents by a column of the index."""

import numpy as np

from steer.search.filters import column
from steer.search.indexed import Indexed
from steer.search.ranked import Allowed, Ranking


def by_column(index: Indexed, name: str, allowed: Allowed, depth: int) -> Ranking:
    """Latents by a column of the index, the largest first, or with ``-name`` the smallest; those without are left out.

    Raises:
        DataError: there is no such column.
    """
    down = name.startswith("-")
    values = np.asarray(column(index.columns, name.removeprefix("-"), index.d_sae), dtype=np.float64)
    usable = np.isfinite(values) & (True if allowed is None else allowed)
    places = np.flatnonzero(usable)
    keys = values[places] if down else -values[places]
    if len(places) > depth:
        near = keys <= np.partition(keys, depth - 1)[depth - 1]  # ties with the last are all looked at
        places, keys = places[near], keys[near]
    latents = places[np.lexsort((places, keys))][:depth]
    own = name.removeprefix("-")
    return Ranking(
        "by", latents, values[latents], own, lambda place: f"{own} {values[latents[place]]:.4g}", int(usable.sum())
    )
