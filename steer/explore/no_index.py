"""What a search has where there is no index: latents of which nothing is known but their number."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

import numpy as np

from steer.errors import DataError
from steer.index.render import Renderer
from steer.search.indexed import Labelled


class NoIndex:
    """An ``Indexed`` without figures, words and labels: searches that look into the SAE and the model alone work."""

    def __init__(self, d_sae: int, renderer: Renderer) -> None:
        self.d_sae = d_sae
        self.renderer = renderer
        self.columns: Mapping[str, np.ndarray] = {}

    def words(self, query: str, limit: int) -> NoReturn:
        """Raise DataError: there are no words."""
        raise DataError("Words of labels and tokens are looked up in an index: start with --index DIR.")

    def labelled(self) -> np.ndarray:
        """For each latent, whether it has a label: none has."""
        return np.zeros(self.d_sae, dtype=bool)

    def labels(self, latent: int) -> Sequence[Labelled]:
        """No labels."""
        return ()

    def all_labels(self) -> Iterable[Labelled]:
        """No labels."""
        return ()

    def promoting(self, token_id: int, limit: int) -> list[tuple[int, float]]:
        """Nothing is listed; with a model and an SAE, all latents are looked at instead."""
        return []

    def suppressing(self, token_id: int, limit: int) -> list[tuple[int, float]]:
        """Nothing is listed."""
        return []
