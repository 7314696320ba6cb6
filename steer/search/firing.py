"""Which latents fire on the tokens of rows: one forward pass, one encoding, then numpy alone."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saes import SAE, SparseCodes
from steer.errors import DataError
from steer.models.batches import batches_of
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.search.parts import Row
from steer.search.policy import IndexPolicy
from steer.search.pooled import Fired

BATCH = 64  # rows
PRE_ACTIVATIONS = 2**26  # in memory at a time: 256 MiB in float32


def firing(
    lm: LanguageModel, sae: SAE, site: Site, rows: Sequence[Row], policy: IndexPolicy | None = None
) -> list[Fired]:
    """For each row, what fires on the tokens that count: those of its part that the ``policy`` leaves (None: all).

    Raises:
        SiteError: the model lacks the site.
        DataError: a row is longer than the model's context, or none of its tokens counts.
        ShapeError: the SAE reads another width.
    """
    found: dict[int, Fired] = {}
    held = sae.on(lm.device)
    for batch in batches_of([len(row.ids) for row in rows], BATCH):
        states = lm.activations(lm.pad([list(rows[i].ids) for i in batch]), [site])[site]
        own = [states[place, -len(rows[i].ids) :] for place, i in enumerate(batch)]
        masks = [_mask(rows[i], x, policy, i) for i, x in zip(batch, own, strict=True)]
        fired = fired_tokens(held, torch.cat([x[mask] for x, mask in zip(own, masks, strict=True)]))
        places = [mask.nonzero()[:, 0].cpu().numpy() for mask in masks]
        ends = np.cumsum([len(one) for one in places])
        for i, end, one in zip(batch, ends, places, strict=True):
            found[i] = _of_row(*fired, int(end) - len(one), int(end), one)
    return [found[i] for i in range(len(rows))]


def _mask(row: Row, x: Float[Tensor, "token d_in"], policy: IndexPolicy | None, number: int) -> Bool[Tensor, " token"]:
    asked = torch.from_numpy(row.counted).to(x.device)
    if policy is None:
        return asked
    left = asked & policy.mask(row.ids, x)
    if not left.any():
        raise DataError(
            f"Prompt {number + 1} has no token that counts: the policy of the index leaves out all {int(asked.sum())} "
            "of this part, for their ids or their norms. Look at another part, or at the last token (last)."
        )
    return left


@torch.no_grad()
def fired_tokens(
    sae: SAE, x: Float[Tensor, "token d_in"]
) -> tuple[Int[np.ndarray, " fired"], Int[np.ndarray, " fired"], Float[np.ndarray, " fired"]]:
    """Token, latent and value of everything that fires, in the order of tokens."""
    parts = [_numbers(codes, start) for start, codes in _codes(sae, x)]
    tokens, latents, values = (np.concatenate(one) for one in zip(*parts, strict=True))
    return tokens, latents, values


def _codes(sae: SAE, x: Float[Tensor, "token d_in"]) -> Iterator[tuple[int, SparseCodes]]:
    """Codes of some tokens at a time."""
    chunk = max(1, PRE_ACTIVATIONS // sae.config.d_sae)
    for start in range(0, len(x), chunk):
        yield start, sae.encode(x[start : start + chunk].float())


def _numbers(codes: SparseCodes, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    indices, values = codes.indices.cpu().numpy(), codes.values.cpu().numpy()
    token, place = np.nonzero(values > 0)
    return token + start, indices[token, place].astype(np.int64), values[token, place].astype(np.float64)


def _of_row(
    tokens: np.ndarray, latents: np.ndarray, values: np.ndarray, start: int, end: int, places: np.ndarray
) -> Fired:
    """What fired on the tokens from ``start`` to ``end`` of a batch, which stand at ``places`` in their row."""
    first, last = np.searchsorted(tokens, [start, end])
    return Fired(latents[first:last], values[first:last], places[tokens[first:last] - start], end - start)
