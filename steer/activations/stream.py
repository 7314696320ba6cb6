"""Shuffled batches of activations from texts, for a trainer that knows no language model."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

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
    site = Site.parse(site)
    for batch in _by_length(texts, generator):
        tokens = lm.pad([texts[i] for i in batch])
        x = lm.activations(tokens, [site])[site]
        yield x[after_first(tokens.mask.bool(), positions_of(tokens.mask))]


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
    source = _forever(lm, site, texts, generator)
    buffer = _take(source, buffer_tokens)
    while True:
        places = torch.randperm(buffer_tokens, generator=generator)[:batch_tokens].to(buffer.device)
        yield buffer[places]
        buffer[places] = _take(source, batch_tokens)


class _Source:
    """Rows of activations, handed out in any number."""

    def __init__(self, blocks: Iterator[Tensor]) -> None:
        self.blocks = blocks
        self.rest: Tensor | None = None


def _forever(
    lm: LanguageModel, site: Site | str, texts: Sequence[Sequence[int]], generator: torch.Generator
) -> _Source:
    def blocks() -> Iterator[Tensor]:
        while True:
            yield from activation_rows(lm, site, texts, generator)

    return _Source(blocks())


def _take(source: _Source, count: int) -> Float[Tensor, "token d_model"]:
    """The next ``count`` rows of a source, as one new tensor."""
    parts, missing = [], count
    while missing:
        block = source.rest if source.rest is not None and len(source.rest) else next(source.blocks)
        parts.append(block[:missing])
        source.rest = block[missing:]
        missing -= len(parts[-1])
    return torch.cat(parts)


def _by_length(texts: Sequence[Sequence[int]], generator: torch.Generator | None) -> list[list[int]]:
    """Indices of the texts in batches of similar length and at most FORWARD_TOKENS tokens."""
    batches: list[list[int]] = []
    for index in sorted(range(len(texts)), key=lambda i: len(texts[i])):
        # sorted, so the text added now is the longest of its batch and sets the padded length
        if not batches or (len(batches[-1]) + 1) * len(texts[index]) > FORWARD_TOKENS:
            batches.append([])
        batches[-1].append(index)
    if generator is None:
        return batches
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
