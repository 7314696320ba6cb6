"""Latents that a search found as one self-contained page of cards. Jinja2 escapes whatever is not markup of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np

from steer.index.card import Card, Window
from steer.search.hits import Hit, SearchResult
from steer.studies.page import render_page

Pieces = Callable[[Sequence[int]], list[str]]
"""Token ids as texts that join to the text of the whole."""
WINDOWS = 8  # of each card
_TOKENS = 12  # promoted and suppressed, of each card
_NEIGHBOURS = 8
_WIDTH, _HEIGHT = 256.0, 48.0  # of a histogram


@dataclass(frozen=True)
class Strip:
    """The tokens of a window, each with its share of the latent's maximum, from 0 to 1."""

    tokens: Sequence[tuple[str, float]]
    peak: int
    max: float
    """Activation at the peak."""


@dataclass(frozen=True)
class HitCard:
    """A hit with all that the page says of it."""

    hit: Hit
    labels: Sequence[tuple[str, str]]
    """Texts, and who made them."""
    columns: Mapping[str, float]
    strips: Sequence[Strip]
    bars: Sequence[tuple[float, float, float, float]]
    """Of the histogram: x, y, width, height."""
    span: tuple[float, float] | None
    """Smallest and largest activation of the histogram's bars."""
    promoted: Sequence[tuple[str, float]]
    suppressed: Sequence[tuple[str, float]]
    similar: Sequence[tuple[int, float]]
    coactive: Sequence[tuple[int, float]]


def render_hits(found: SearchResult, cards: Sequence[Card], pieces: Pieces, asked: Sequence[str], index: str) -> str:
    """The page: ``cards`` are those of the hits, ``asked`` the parts of the query, ``index`` the name of the index."""
    context = {
        "cards": [_hit_card(hit, card, pieces) for hit, card in zip(found.hits, cards, strict=True)],
        "notes": found.notes,
        "asked": asked,
        "index": index,
        "about": list(found.about),
        "width": _WIDTH,
        "height": _HEIGHT,
    }
    return render_page(resources.files("steer.reports").joinpath("hits.html"), context)


def _hit_card(hit: Hit, card: Card, pieces: Pieces) -> HitCard:
    """What the page says of a hit."""
    top = max((window.max for window in card.windows), default=0.0)
    bars, span = _bars(card)
    return HitCard(
        hit=hit,
        labels=[(label.text, label.made_by) for label in card.labels],
        columns={name: value for name, value in card.columns.items() if np.isfinite(value)},
        strips=[_strip(window, top, pieces) for window in card.windows[:WINDOWS]],
        bars=bars,
        span=span,
        promoted=[(pieces([token])[0], logit) for token, logit in card.promoted[:_TOKENS]],
        suppressed=[(pieces([token])[0], logit) for token, logit in card.suppressed[:_TOKENS]],
        similar=card.similar[:_NEIGHBOURS],
        coactive=card.coactive[:_NEIGHBOURS],
    )


def _strip(window: Window, top: float, pieces: Pieces) -> Strip:
    texts = pieces(window.token_ids.tolist())
    shares = [min(1.0, float(value) / top) if top > 0 else 0.0 for value in window.activations]
    return Strip(list(zip(texts, shares, strict=True)), window.peak, window.max)


def _bars(card: Card) -> tuple[list[tuple[float, float, float, float]], tuple[float, float] | None]:
    """The histogram from its first bar to its last as rectangles, heights by the square root of counts."""
    used = np.flatnonzero(card.histogram)
    if not len(used):
        return [], None
    first, last = int(used[0]), int(used[-1])
    heights = np.sqrt(card.histogram[first : last + 1].astype(np.float64))
    heights *= _HEIGHT / heights.max()
    wide = _WIDTH / len(heights)
    bars = [
        (round(place * wide, 2), round(_HEIGHT - high, 2), round(max(0.5, wide - 0.5), 2), round(high, 2))
        for place, high in enumerate(heights.tolist())
        if high
    ]
    return bars, (float(card.edges[first]), float(card.edges[last + 1]))
