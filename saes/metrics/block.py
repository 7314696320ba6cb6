"""Held-out activations cut anew into blocks of one size, so that no figure depends on how they arrived."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from saes.batches import Alike, as_activations
from saes.codes import SparseCodes
from saes.errors import ShapeError
from saes.sae import SAE
from saes.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class Placed:
    """Activations of tokens, and where in which text each of them stands."""

    x: Float[Tensor, "_ d_in"]
    position: Int[Tensor, " _"]
    """Position of each token in its text, from 0."""
    text: Int[Tensor, " _"]
    """Number of its text, from 0."""


Batch = Float[Tensor, "_ d_in"] | Placed
"""Activations, with or without their places."""


@dataclass(frozen=True)
class Block:
    """Tokens, their codes and their reconstruction, on the SAE's device."""

    x: Float[Tensor, "token d_in"]
    codes: SparseCodes
    x_hat: Float[Tensor, "token d_in"]
    error: Float[Tensor, " token"]
    """Squared error of each token, in float64."""
    position: Int[Tensor, " token"] | None
    text: Int[Tensor, " token"] | None

    def __len__(self) -> int:
        return len(self.x)


def blocks_of(sae: SAE, batches: Iterable[object], block_tokens: int) -> Iterator[Block]:
    """Blocks of exactly ``block_tokens`` tokens, in order, the last one shorter; each is encoded and decoded at once.

    The blocks, and with them every bit of the results, are the same however the tokens are cut into batches.

    Raises:
        ShapeError: a batch is not of shape [token, d_in], is not finite, is of another dtype or device than the first,
            or only some of the batches have places; or ``block_tokens`` is no whole number or below 1.
    """
    require_size(block_tokens)
    waiting: list[Placed | Tensor] = []
    kinds, alike = set(), Alike()
    for batch in batches:
        alike.require(batch.x if isinstance(batch, Placed) else batch)
        waiting.append(_checked(batch, sae.config.d_in))
        kinds.add(isinstance(waiting[-1], Placed))
        if len(kinds) > 1:
            raise ShapeError("Either all batches of activations say where their tokens stand (Placed), or none does.")
        while sum(map(_count, waiting)) >= block_tokens:
            whole = _joined(waiting)
            yield _block(sae, _part(whole, 0, block_tokens))
            waiting = [_part(whole, block_tokens, _count(whole))]
    if sum(map(_count, waiting)):
        yield _block(sae, _joined(waiting))


def require_size(block_tokens: object) -> None:
    """See that blocks have a size.

    Raises:
        ShapeError: it is no whole number, or below 1.
    """
    if not isinstance(block_tokens, int) or isinstance(block_tokens, bool) or block_tokens < 1:
        raise ShapeError(f"block_tokens must be a whole number of at least 1, got {block_tokens!r}.")


def _checked(batch: object, d_in: int) -> Placed | Tensor:
    if not isinstance(batch, Placed):
        return as_activations(batch, d_in)
    x = as_activations(batch.x, d_in)
    if not len(x) == len(batch.position) == len(batch.text):
        raise ShapeError(
            f"A batch of {len(x)} tokens must have as many positions and texts, got {len(batch.position)} and "
            f"{len(batch.text)}."
        )
    return Placed(x, batch.position, batch.text)


def _count(one: Placed | Tensor) -> int:
    return len(one.x if isinstance(one, Placed) else one)


def _joined(parts: list[Placed | Tensor]) -> Placed | Tensor:
    placed = [one for one in parts if isinstance(one, Placed)]
    if placed:
        return Placed(*(torch.cat([getattr(one, name) for one in placed]) for name in ("x", "position", "text")))
    return torch.cat([one for one in parts if isinstance(one, Tensor)])


def _part(one: Placed | Tensor, start: int, end: int) -> Placed | Tensor:
    if isinstance(one, Placed):
        return Placed(one.x[start:end], one.position[start:end], one.text[start:end])
    return one[start:end]


def _block(sae: SAE, one: Placed | Tensor) -> Block:
    device = sae.W_dec.device
    x = (one.x if isinstance(one, Placed) else one).to(device)
    codes = sae.encode(x)
    x_hat = sae.decode(codes, x)
    error = (x_hat - x).double().square().sum(-1)
    if isinstance(one, Placed):
        return Block(x, codes, x_hat, error, one.position.to(device), one.text.to(device))
    return Block(x, codes, x_hat, error, None, None)
