"""Rows of activations in any number, from blocks of any size, with the position of the next row."""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from steer.activations.reading import START, Block
from steer.activations.ring import ShuffleRing
from steer.activations.sources.source import Position


class Tap:
    """Hands out the rows of blocks. What is left of a block is not stored: its position and a count make it again."""

    def __init__(self, blocks: Iterator[tuple[Block, Position]], start: Position | None = None) -> None:
        self._blocks = blocks
        self._after: Position = start["before"] if start else START
        self._before: Position = self._after
        self._block: Block | None = None
        self._taken = 0
        if start and start["taken"] and self._next():
            self._taken = start["taken"]

    def take(self, most: int) -> Float[Tensor, "site _ d_model"] | None:
        """The next rows, at least one and at most ``most``, as a view; None where the text has ended."""
        while self._block is None or self._taken == self._block.shape[1]:
            if not self._next():
                return None
        assert self._block is not None
        rows = self._block[:, self._taken : self._taken + most]
        self._taken += rows.shape[1]
        return rows

    @property
    def position(self) -> Position:
        """From where a tap gives the next row, if its blocks begin at ``position["before"]``."""
        if self._block is None or self._taken == self._block.shape[1]:
            return {"before": self._after, "taken": 0}
        return {"before": self._before, "taken": self._taken}

    def _next(self) -> bool:
        found = next(self._blocks, None)
        if found is None:
            return False
        self._before, self._taken = self._after, 0
        self._block, self._after = found
        return True


def fill(ring: ShuffleRing, tap: Tap) -> None:
    """Put rows into all free slots, or as many as the text still gives."""
    while ring.free and (rows := tap.take(ring.free)) is not None:
        ring.put(rows)
