"""Passes of the model dealt to the processes of a run: each makes every n-th of them, and all get all activations."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import torch

from saes import World
from steer.activations.reading import Block, Made
from steer.activations.sources.source import Position


def shared(passes: Iterator[Made], world: World, device: torch.device) -> Iterator[tuple[Block, Position]]:
    """The activations of every pass, on every process, in the order and with the bits of one process.

    Every process gives the same passes, and has made those that are its own by ``Turns``. They are handed round one by
    one, so no more than one that is another's is in memory (on ``device``, where the model is). All processes must ask
    in step; where making a pass raises an error on one of them, it does on all.
    """
    if world.all.alone:
        yield from ((made, position) for made, position in passes if not isinstance(made, int))
        return
    kind: tuple[int, int, torch.dtype] | None = None
    for number in count():
        found = world.together(lambda: next(passes, None))
        if found is None:
            return
        made, position = found
        kind = kind or _kind(made, world)
        if isinstance(made, int):
            made = torch.empty(kind[0], made, kind[1], dtype=kind[2], device=device)
        yield world.all.from_one_(made.contiguous(), number % world.size), position


def _kind(made: Block | int, world: World) -> tuple[int, int, torch.dtype]:
    """Sites, width and dtype of the activations: the first pass is made by the first process, which tells."""
    own: Any = None if isinstance(made, int) else (len(made), made.shape[-1], str(made.dtype).removeprefix("torch."))
    sites, width, dtype = world.all.from_first(own)
    return sites, width, getattr(torch, dtype)
