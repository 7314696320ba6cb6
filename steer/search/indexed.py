"""What a search needs of an index of latents, and what it uses of one on disk. ``FeatureIndex`` has both."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Labelled(Protocol):
    """What somebody says that a latent stands for."""

    @property
    def latent(self) -> int:
        """Its number."""
        ...

    @property
    def text(self) -> str:
        """The label."""
        ...


@runtime_checkable
class Rendering(Protocol):
    """How tokens read."""

    def text(self, ids: Sequence[int]) -> str:
        """Token ids as text."""
        ...

    @property
    def token_bytes(self) -> Callable[[int], bytes]:
        """The bytes that a token stands for."""
        ...


@runtime_checkable
class Indexed(Protocol):
    """Figures, words and tokens of latents."""

    @property
    def renderer(self) -> Rendering:
        """How the model's tokens read."""
        ...

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        ...

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Figures by name, each [d_sae]; ``density`` and ``max`` (raw units) are used where they are there."""
        ...

    def words(self, query: str, limit: int) -> list[tuple[int, float]]:
        """Latents whose labels or tokens hold words, best first, with a score."""
        ...

    def labelled(self) -> np.ndarray:
        """For each latent, whether it has a label."""
        ...

    def labels(self, latent: int) -> Sequence[Labelled]:
        """Labels of one."""
        ...

    def all_labels(self) -> Iterable[Labelled]:
        """All labels."""
        ...

    def promoting(self, token_id: int, limit: int) -> list[tuple[int, float]]:
        """Latents that have a token among those they promote most, with its logit."""
        ...

    def suppressing(self, token_id: int, limit: int) -> list[tuple[int, float]]:
        """The same for those they suppress most."""
        ...


@runtime_checkable
class Stored(Protocol):
    """What an index on disk has besides."""

    @property
    def folder(self) -> Path:
        """Where it lies."""
        ...

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What it was made of, and by which policy tokens count."""
        ...

    @property
    def info(self) -> Any:
        """Among others ``vocabulary``: how many tokens it holds the bytes of."""
        ...
