"""Ranks that work together on ``torch.distributed``. A rank that is alone needs none of it: nothing is exchanged."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from saes.errors import WorldError
from saes.shapes import Float, Tensor


@dataclass(frozen=True)
class Group:
    """Some ranks, and this one's place among them. Every rank must call the same operations in the same order.

    Each operation raises WorldError if another rank is gone, or does not answer within the time set for the world.
    """

    rank: int = 0
    """This rank's number within the group."""
    size: int = 1
    """Number of ranks."""
    handle: Any = None
    """The process group of ``torch.distributed``; None: the rank is alone."""
    timeout_s: float = 0.0
    """Seconds after which a rank that does not answer counts as gone."""

    @property
    def alone(self) -> bool:
        """Whether there is nobody to exchange with."""
        return self.size == 1

    def sum_(self, x: Tensor) -> Tensor:
        """Replace ``x`` by its sum over the ranks; the same bits on all of them."""
        return self._reduced_(x, dist.ReduceOp.SUM)

    def max_(self, x: Tensor) -> Tensor:
        """Replace ``x`` by its largest values over the ranks."""
        return self._reduced_(x, dist.ReduceOp.MAX)

    def gather(self, x: Tensor) -> Tensor:
        """The ``x`` of every rank, all of one shape, along a new first axis in the order of the ranks."""
        if self.alone:
            return x.unsqueeze(0)
        every = x.new_empty(self.size, *x.shape)
        with self._answered():
            dist.all_gather(list(every.unbind(0)), x.contiguous(), group=self.handle)
        return every

    def rows(self, x: Float[Tensor, "token d"]) -> Float[Tensor, "_ d"]:
        """The rows of every rank, one rank's after the other's."""
        return x if self.alone else self.gather(x).flatten(0, 1)

    def total(self, value: float) -> float:
        """The sum of a number over the ranks, in float64."""
        return value if self.alone else self.sum_(torch.tensor(value, dtype=torch.float64)).item()

    def largest(self, value: float) -> float:
        """The largest of a number over the ranks."""
        return value if self.alone else self.max_(torch.tensor(value, dtype=torch.float64)).item()

    def objects(self, value: Any) -> list[Any]:
        """What every rank gives, in the order of the ranks: JSON data, nothing large. Tuples become lists."""
        if self.alone:
            return [value]
        text = json.dumps(value).encode()
        padded = text.ljust(int(self.largest(len(text))))
        every = self.gather(torch.frombuffer(bytearray(padded), dtype=torch.uint8))
        return [json.loads(bytes(one.tolist())) for one in every]

    def from_first(self, value: Any) -> Any:
        """What rank 0 of the group gives; what the others give is not looked at."""
        return value if self.alone else self.objects(value if self.rank == 0 else None)[0]

    def from_one_(self, x: Tensor, owner: int) -> Tensor:
        """Replace the contiguous ``x`` by that of rank ``owner`` of the group, of one shape and dtype, bit for bit."""
        if not self.alone and x.numel():
            with self._answered():
                source = dist.get_global_rank(self.handle, owner)
                dist.broadcast(x.view(torch.uint8), source, group=self.handle)  # gloo does not know every dtype
        return x

    def _reduced_(self, x: Tensor, operation: Any) -> Tensor:
        if not self.alone:
            with self._answered():
                dist.all_reduce(x, operation, group=self.handle)
        return x

    @contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # all that torch.distributed raises
            first = next(iter(str(error).splitlines()), "no reason given")
            raise WorldError(
                f"Another process of this run is gone, or has not answered for {self.timeout_s:g} s ({first}). "
                "Look at its own message, mend that, and give the same command again: the run goes on from its "
                "newest checkpoint, also on another number of processes."
            ) from error


ALONE = Group()
