"""Reading activations and latents of rows of tokens, in batches of similar length."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from saes import SAE
from steer.models.batches import batches_of
from steer.models.model import LanguageModel
from steer.models.site import Site

READ_ROWS = 32  # rows of one forward pass
Read = TypeVar("Read")
CUT_TOKENS = 256  # of a neutral text: the rest is not read


def states_of(
    lm: LanguageModel, site: Site, rows: Sequence[Sequence[int]]
) -> Iterator[tuple[int, Float[Tensor, "seq d_model"]]]:
    """Each row's number and its activations without padding, in the order in which batches are run."""
    for batch in batches_of([len(row) for row in rows], READ_ROWS):
        states = lm.activations(lm.pad([rows[i] for i in batch]), [site])[site]
        for i, x in zip(batch, states, strict=True):
            yield i, x[-len(rows[i]) :]


def latents_of(sae: SAE, x: Float[Tensor, "seq d_model"]) -> Float[Tensor, "seq d_sae"]:
    """What the SAE makes of the activations, dense."""
    return sae.encode(x.to(sae.W_dec.dtype)).to_dense()


def largest(
    lm: LanguageModel,
    sae: SAE,
    site: Site,
    rows: Sequence[Sequence[int]],
    last: Sequence[int],
    done: Callable[[int], None] | None = None,
) -> Float[Tensor, "row d_sae"]:
    """Each latent's largest activation over the ``last`` tokens of each row, in raw units, on the CPU.

    ``last`` holds a number for each row; ``done`` is called with 1 whenever a row is read, here and below.
    """
    held = sae.on(lm.device)
    found = torch.zeros(len(rows), sae.config.d_sae)
    for i, x in _counted(states_of(lm, site, rows), done):
        found[i] = latents_of(held, x[-last[i] :]).amax(0).float().cpu()
    return found


def maxima(
    lm: LanguageModel,
    sae: SAE,
    site: Site,
    rows: Sequence[Sequence[int]],
    done: Callable[[int], None] | None = None,
) -> Float[Tensor, " d_sae"]:
    """Each latent's largest activation over all tokens of the rows but each one's first, in raw units."""
    return largest(lm, sae, site, rows, [len(row) - 1 for row in rows], done).amax(0)


def mean_norm(
    lm: LanguageModel, site: Site, rows: Sequence[Sequence[int]], done: Callable[[int], None] | None = None
) -> float:
    """Mean norm of the activations over the tokens of the rows but each one's first (which is unlike all others)."""
    cut = [row[:CUT_TOKENS] for row in rows]
    norms = [x[1:].double().norm(dim=-1).cpu() for _, x in _counted(states_of(lm, site, cut), done)]
    return torch.cat(norms).mean().item()


def _counted(states: Iterator[Read], done: Callable[[int], None] | None) -> Iterator[Read]:
    for one in states:
        yield one
        if done:
            done(1)
