"""Activations of texts that lie in memory, as rows or as shuffled batches. ``ActivationStream`` reads sources."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saes import Placed
from steer.activations.reading import START, Block, by_length
from steer.activations.ring import ShuffleRing
from steer.activations.sources.source import Position
from steer.activations.tap import Tap, fill
from steer.checks import require_whole
from steer.errors import DataError
from steer.models.model import LanguageModel
from steer.models.passes import after_first, positions_of
from steer.models.site import Site

FORWARD_TOKENS = 8192  # tokens of one forward pass, padding included


def activation_rows(
    lm: LanguageModel, site: Site | str, texts: Sequence[Sequence[int]], generator: torch.Generator | None = None
) -> Iterator[Float[Tensor, "_ d_model"]]:
    """Activations at ``site`` (a site or its name) of the tokens of all texts, one block per forward pass.

    Padding and the first token of each text are left out (see ``after_first``).
    Texts of similar length share a pass; the passes come in the order of length, or shuffled by ``generator``.

    Raises:
        SiteError: the name is no site, or the model lacks it.
    """
    return (rows.x for rows in placed_rows(lm, site, texts, generator))


def placed_rows(
    lm: LanguageModel,
    site: Site | str,
    texts: Sequence[Sequence[int]],
    generator: torch.Generator | None = None,
    site_out: Site | str | None = None,
) -> Iterator[Placed]:
    """The same, each block with the position of its tokens in their texts and the number of the text.

    With ``site_out`` also with what stands at that site for the same tokens, as a transcoder is measured on it.
    """
    site, out = Site.parse(site), None if site_out is None else Site.parse(site_out)
    for batch in _by_length(texts, generator):
        tokens = lm.pad([texts[i] for i in batch])
        found = lm.activations(tokens, [site] if out is None else [site, out])
        positions = positions_of(tokens.mask)
        kept = after_first(tokens.mask.bool(), positions)
        text = torch.tensor(batch, device=lm.device).unsqueeze(-1).expand_as(kept)
        y = None if out is None else found[out][kept]
        yield Placed(found[site][kept], positions[kept], text[kept], y)


def activation_batches(
    lm: LanguageModel,
    site: Site | str,
    texts: Sequence[Sequence[int]],
    batch_tokens: int,
    seed: int = 0,
    buffer_tokens: int = 65_536,
) -> Iterator[Float[Tensor, "_ d_model"]]:
    """Batches of ``batch_tokens`` activations, mixed over many texts, without end (the texts are read again and again).

    A buffer of ``buffer_tokens`` is filled once; every batch takes random places of it, and the tokens that come next
    fill those places. The batches depend on nothing but the model, the texts and the seed.

    Raises:
        DataError: there is no text, or the batch is larger than the buffer.
        SiteError: the name is no site, or the model lacks it.
    """
    require_whole("batch_tokens", batch_tokens, DataError)
    require_whole("buffer_tokens", buffer_tokens, DataError, least=batch_tokens)
    if not any(len(ids) > 1 for ids in texts):
        raise DataError("There is no text of at least two tokens to take activations from.")
    generator = torch.Generator().manual_seed(seed)
    rows = Tap(_forever(lm, site, texts, generator))
    first = rows.take(buffer_tokens)
    assert first is not None  # there is text, and it is read without end
    ring = ShuffleRing(buffer_tokens, 1, first.shape[-1], first.dtype, first.device)
    ring.put(first)
    while True:
        fill(ring, rows)
        yield ring.take(torch.randperm(buffer_tokens, generator=generator)[:batch_tokens])[0]


def _forever(
    lm: LanguageModel, site: Site | str, texts: Sequence[Sequence[int]], generator: torch.Generator
) -> Iterator[tuple[Block, Position]]:
    while True:
        for rows in activation_rows(lm, site, texts, generator):
            yield rows.unsqueeze(0), START


def _by_length(texts: Sequence[Sequence[int]], generator: torch.Generator | None) -> list[list[int]]:
    """Indices of the texts in batches of similar length and at most FORWARD_TOKENS tokens."""
    batches = by_length([len(ids) for ids in texts], FORWARD_TOKENS)
    if generator is None:
        return batches
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
