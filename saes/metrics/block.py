"""Held-out activations cut anew into blocks of one size, so that no figure depends on how they arrived."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from saes.batches import Alike, as_activations, at_site
from saes.codes import SparseCodes
from saes.config import SAEConfig
from saes.errors import ConfigError, ShapeError
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
    y: Float[Tensor, "_ d_out"] | None = None
    """What stands where a transcoder writes, for the same tokens; None for an autoencoder, which writes ``x``."""


Batch = Float[Tensor, "_ d_in"] | Mapping[Any, Float[Tensor, "_ _"]] | Placed
"""Activations of one site, or those of the same tokens at several by the name of the site, or with their places."""


@dataclass(frozen=True)
class Block:
    """Tokens, their codes and what is written for them, on the SAE's device."""

    y: Float[Tensor, "token d_out"]
    """What the SAE shall write: of an autoencoder, what it reads."""
    codes: SparseCodes
    y_hat: Float[Tensor, "token d_out"]
    error: Float[Tensor, " token"]
    """Squared error of each token, in float64."""
    position: Int[Tensor, " token"] | None
    text: Int[Tensor, " token"] | None

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class _Rows:
    """Tokens of a batch. What is None is so in all batches."""

    x: Tensor
    y: Tensor | None = None
    position: Tensor | None = None
    text: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def part(self, start: int, end: int) -> "_Rows":
        return _Rows(*(None if one is None else one[start:end] for one in self._parts()))  # type: ignore[arg-type]

    def on(self, device: torch.device) -> "_Rows":
        return _Rows(*(None if one is None else one.to(device) for one in self._parts()))  # type: ignore[arg-type]

    def _parts(self) -> list[Tensor | None]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)]


def blocks_of(sae: SAE, batches: Iterable[object], block_tokens: int) -> Iterator[Block]:
    """Blocks of exactly ``block_tokens`` tokens, in order, the last one shorter; each is encoded and decoded at once.

    The blocks, and with them every bit of the results, are the same however the tokens are cut into batches.

    Raises:
        ShapeError: a batch is not of shape [token, d_in], is not finite, is of another dtype or device than the first,
            or only some of the batches have places; or ``block_tokens`` is no whole number or below 1.
        ConfigError: a batch lacks a site that the SAE reads or writes.
    """
    require_size(block_tokens)
    waiting: list[_Rows] = []
    kinds, alike = set(), Alike()
    for batch in batches:
        waiting.append(_checked(batch, sae.config, alike))
        kinds.add(isinstance(batch, Placed))
        if len(kinds) > 1:
            raise ShapeError("Either all batches of activations say where their tokens stand (Placed), or none does.")
        while sum(map(len, waiting)) >= block_tokens:
            whole = _joined(waiting)
            yield _block(sae, whole.part(0, block_tokens))
            waiting = [whole.part(block_tokens, len(whole))]
    if sum(map(len, waiting)):
        yield _block(sae, _joined(waiting))


def require_size(block_tokens: object) -> None:
    """See that blocks have a size.

    Raises:
        ShapeError: it is no whole number, or below 1.
    """
    if not isinstance(block_tokens, int) or isinstance(block_tokens, bool) or block_tokens < 1:
        raise ShapeError(f"block_tokens must be a whole number of at least 1, got {block_tokens!r}.")


def _checked(batch: object, config: SAEConfig, alike: Alike) -> _Rows:
    """What the SAE reads of a batch, and what it shall write, where that is something else."""
    if isinstance(batch, Placed):
        given, target = batch.x, batch.y
        if (target is not None) != config.is_transcoder:
            raise ConfigError(
                "y of Placed holds what a transcoder shall write, and an autoencoder writes what it reads: got "
                f"{'none for a transcoder' if target is None else 'one for an autoencoder'}."
            )
    else:
        given = at_site(batch, config.site, config)
        target = at_site(batch, config.site_out or config.site, config) if config.is_transcoder else None
    alike.require(given)
    x, y = as_activations(given, config.d_in), None
    if config.is_transcoder:
        alike.require(target, config.site_out or "the site that is written")
        y = as_activations(target, config.width_out, len(x))
    if not isinstance(batch, Placed):
        return _Rows(x, y)
    if not len(x) == len(batch.position) == len(batch.text):
        raise ShapeError(
            f"A batch of {len(x)} tokens must have as many positions and texts, got {len(batch.position)} and "
            f"{len(batch.text)}."
        )
    return _Rows(x, y, batch.position, batch.text)


def _joined(parts: list[_Rows]) -> _Rows:
    def joined(name: str) -> Tensor | None:
        every = [getattr(one, name) for one in parts]
        return None if every[0] is None else torch.cat(every)

    return _Rows(*(joined(field.name) for field in dataclasses.fields(_Rows)))  # type: ignore[arg-type]


def _block(sae: SAE, rows: _Rows) -> Block:
    rows = rows.on(sae.W_dec.device)
    y = rows.x if rows.y is None else rows.y
    codes = sae.encode(rows.x)
    y_hat = sae.decode(codes, rows.x)
    return Block(y, codes, y_hat, (y_hat - y).double().square().sum(-1), rows.position, rows.text)
