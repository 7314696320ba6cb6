"""Which part of the stream each process reads. Both ways give the same batches on any number of processes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from saes.batches import Alike
from saes.distributed.world import ONE, World
from saes.errors import ConfigError, ShapeError
from saes.shapes import Tensor

Batch = Tensor | Mapping[Any, Tensor]


class Slices:
    """Every process reads the whole stream and keeps its slice of each batch.

    Rank r of n keeps the r-th n-th of the rows. It suits streams that cost little to read, such as stored activations:
    each process does all the reading. The state is that of the stream, so a run goes on on any number of processes, or
    on one without this.
    """

    def __init__(self, batches: Any, world: World = ONE) -> None:
        self.batches, self.world = batches, world
        self._iterator: Iterator[Batch] | None = None

    def __iter__(self) -> "Slices":
        return self

    def __next__(self) -> Any:
        if self._iterator is None:
            self._iterator = iter(self.batches)
        return _mapped(self._slice, next(self._iterator))

    def state(self) -> Any:
        """That of the stream, given by the first process; None on the others."""
        return self.batches.state() if self.world.rank == 0 else None

    def restore(self, state: Any) -> None:
        """Go on from the state of the whole stream."""
        self.batches.restore(state)

    def restore_from(self, states: Sequence[Any]) -> None:
        """Go on from the states of all processes of an earlier run, however many they were."""
        self.restore(states[0])

    def _slice(self, x: object) -> object:
        if not isinstance(x, Tensor):
            return x  # which ``fit`` refuses
        rows = self.world.share(len(x))
        return x[self.world.rank * rows : (self.world.rank + 1) * rows]


class Parts:
    """The stream is ``parts`` streams, of other texts each, and every process reads an equal number of them.

    Part p gives the p-th share of each batch: ``batch_tokens / parts`` rows. Nothing is read twice, and since the parts
    stay the same, the batches do too on any number of processes that divides ``parts``.
    """

    def __init__(self, opened: Callable[[int], Any], parts: int, world: World = ONE) -> None:
        """``opened(p)`` opens part p from its beginning.

        Raises:
            ConfigError: the parts cannot be divided evenly over the processes.
        """
        if parts < 1 or parts % world.size:
            raise ConfigError(
                f"parts must be a multiple of the number of processes: got {parts} parts for {world.size} processes."
            )
        each = parts // world.size
        self.parts = {part: opened(part) for part in range(world.rank * each, (world.rank + 1) * each)}
        self._iterators: list[Iterator[Batch]] | None = None

    def __iter__(self) -> "Parts":
        return self

    def __next__(self) -> Batch:
        if self._iterators is None:
            self._iterators = [iter(one) for one in self.parts.values()]
        batches = [next(one) for one in self._iterators]
        if isinstance(batches[0], Mapping):
            return {key: _joined([batch[key] for batch in batches]) for key in batches[0]}
        return _joined(batches)

    def state(self) -> dict[str, Any]:
        """Where each part of this process stands, by its number."""
        return {str(part): stream.state() for part, stream in self.parts.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that holds at least the parts of this process.

        Raises:
            ConfigError: it lacks one.
        """
        for part, stream in self.parts.items():
            if str(part) not in state:
                raise ConfigError(f"The run was begun with {len(state)} parts of the stream. Give as many.")
            stream.restore(state[str(part)])

    def restore_from(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Go on from the states of all processes of an earlier run, however many they were."""
        self.restore({part: state for one in states for part, state in one.items()})


def _joined(parts: Sequence[Any]) -> Tensor:
    alike = Alike()
    for part in parts:
        if not isinstance(part, Tensor):
            raise ShapeError(
                f"A batch of activations must be a tensor, got {type(part).__name__} from a part of the stream."
            )
        alike.require(part)  # which joining would cast
    return torch.cat(list(parts))


def _mapped(function: Callable[[object], object], batch: object) -> object:
    if isinstance(batch, Mapping):
        return {key: function(tensor) for key, tensor in batch.items()}
    return function(batch)
