"""A shuffle buffer that costs the same to serve however large it is: random slots are served, then written anew."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steer.checks import require_whole
from steer.errors import DataError


class ShuffleRing:
    """Activations of several sites, those of one token side by side, in memory that is allocated once.

    ``put`` fills free slots; ``serve`` gives a copy of random slots and frees them. Neither touches any other slot.
    """

    def __init__(
        self,
        slots: int,
        n_sites: int,
        d_model: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        for name, value in (("slots", slots), ("n_sites", n_sites), ("d_model", d_model)):
            require_whole(name, value, DataError)
        try:
            self._rows = torch.empty(n_sites, slots, d_model, dtype=dtype, device=device)
        except RuntimeError as error:  # torch has no other name for it on a CPU
            size = n_sites * slots * d_model * dtype.itemsize / 2**30
            raise DataError(
                f"A ring of {slots:,} tokens takes {size:,.1f} GiB, which cannot be had on {device}. Make it smaller "
                "(`--ring-tokens`)."
            ) from error
        self._end = 0
        """Slots from here on are free."""
        self._holes = torch.empty(0, dtype=torch.long)
        """Free slots below ``_end``."""
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def filled(self) -> int:
        """Number of slots that can be served."""
        return self._end - len(self._holes)

    @property
    def free(self) -> int:
        """Number of slots that can be filled."""
        return self._rows.shape[1] - self.filled

    def put(self, rows: Float[Tensor, "site token d_model"]) -> None:
        """Fill free slots, those that were served last before those that were never filled.

        Raises:
            DataError: there are more rows than free slots, or they are of another shape or dtype.
        """
        sites, slots, width = self._rows.shape
        if rows.shape[::2] != (sites, width) or rows.dtype != self._rows.dtype or rows.shape[1] > self.free:
            raise DataError(
                f"The ring has {self.free} of {slots} slots free, for {sites} sites of width {width} in "
                f"{self._rows.dtype}: got rows of shape {list(rows.shape)} in {rows.dtype}."
            )
        holes, self._holes = self._holes.tensor_split([rows.shape[1]])
        self._rows.index_copy_(1, holes.to(self._rows.device), rows[:, : len(holes)].to(self._rows.device))
        begin, self._end = self._end, self._end + rows.shape[1] - len(holes)
        self._rows[:, begin : self._end] = rows[:, len(holes) :]

    def serve(self, count: int) -> Float[Tensor, "site token d_model"]:
        """Copies of ``count`` different rows, chosen at random among all; their slots are free then.

        Raises:
            DataError: fewer are filled.
        """
        require_whole("count", count, DataError)
        if count > self.filled:
            raise DataError(f"The ring holds {self.filled} rows, {count} are asked for. Put more first.")
        self._close_holes()
        return self.take(distinct(count, self.filled, self._generator))

    def take(self, slots: Int[Tensor, " token"]) -> Float[Tensor, "site token d_model"]:
        """Copies of the rows in these slots, which are free then. The slots must be filled and different."""
        self._holes = torch.cat([slots, self._holes])
        return self._rows.index_select(1, slots.to(self._rows.device))

    def _close_holes(self) -> None:
        """Move the last rows into the holes. Only when the text has ended are there any, and no more than a batch."""
        if not len(self._holes):
            return
        last = torch.arange(self.filled, self._end)
        moved, into = last[~torch.isin(last, self._holes)], self._holes[self._holes < self.filled]
        rows = self._rows.index_select(1, moved.to(self._rows.device))
        self._rows.index_copy_(1, into.to(self._rows.device), rows)
        self._end, self._holes = self.filled, self._holes[:0]

    def state(self) -> dict[str, Any]:
        """Everything that decides what comes next: tensors on the CPU, copied (so it takes the ring's size there)."""
        return {
            "rows": self._rows.to("cpu", copy=True),
            "end": self._end,
            "holes": self._holes.clone(),
            "generator": self._generator.get_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``state``.

        Raises:
            DataError: it is not of a ring of this shape and dtype.
        """
        rows = state["rows"]
        if rows.shape != self._rows.shape or rows.dtype != self._rows.dtype:
            raise DataError(
                f"The ring to go on from has shape {list(rows.shape)} in {rows.dtype}, this one "
                f"{list(self._rows.shape)} in {self._rows.dtype}. Use the settings that it was made with."
            )
        self._rows.copy_(rows)
        self._end, self._holes = state["end"], state["holes"].clone()
        self._generator.set_state(state["generator"])


def distinct(count: int, below: int, generator: torch.Generator) -> Int[Tensor, " {count}"]:
    """``count`` different whole numbers from 0 to ``below``, at random, at a cost that does not grow with ``below``.

    Numbers are drawn until enough different ones have come; the later of two equal ones is dropped, so every choice is
    equally likely. Where more than half of all numbers are wanted, all are permuted.
    """
    if 2 * count > below:
        return torch.randperm(below, generator=generator)[:count]
    found: dict[int, None] = {}  # in the order of drawing
    while len(found) < count:
        drawn = torch.randint(below, (count - len(found),), generator=generator)
        found.update(dict.fromkeys(drawn.tolist()))
    return torch.tensor(list(found))
