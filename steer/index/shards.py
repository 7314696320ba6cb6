"""Arrays by latent that are cut into memory-mapped files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from steer.errors import DataError
from steer.index.layout import Sizes, arrays, shard_file


def mapped(path: Path) -> np.ndarray:
    """A ``.npy`` file, memory-mapped read-only.

    Raises:
        DataError: it is missing, truncated or no array.
    """
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))  # a plain view of the map: less per access
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read ({reason}). Copy the index again, or build it again.") from error


@dataclass(frozen=True)
class ShardedArray:
    """An array of shape [d_sae, ...] in files of ``rows`` latents each."""

    parts: tuple[np.ndarray, ...]
    """Memory-mapped, in order."""
    rows: int
    """Latents of a part."""

    def row(self, latent: int) -> np.ndarray:
        """What is stored of one latent."""
        return np.asarray(self.parts[latent // self.rows][latent % self.rows])  # an array of no axes, no number

    def joined(self) -> np.ndarray:
        """All of it, in memory."""
        return np.concatenate(self.parts)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Each part with the number of its first latent."""
        for number, part in enumerate(self.parts):
            yield number * self.rows, part


def open_arrays(folder: Path, sizes: Sizes) -> dict[str, ShardedArray]:
    """All arrays of an index by name.

    Raises:
        DataError: a file is missing or damaged, or has another shape.
    """
    found = {}
    for name, array in arrays(sizes).items():
        parts = []
        for shard in sizes.shards:
            path = folder / shard_file(name, shard)
            part = mapped(path)
            expected = (len(shard), *array.shape)
            if part.shape != expected or part.dtype != array.dtype:
                raise DataError(
                    f"{path} holds {part.dtype} of shape {part.shape}, expected {array.dtype} of {expected}. "
                    "Build the index again."
                )
            parts.append(part)
        found[name] = ShardedArray(tuple(parts), sizes.shard_latents)
    return found
