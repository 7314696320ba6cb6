"""What a search gives: latents, and why each matched."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Reason:
    """Why a latent matched one part of a query."""

    kind: str
    """The part, as ``Query`` names it."""
    rank: int
    """Its place in that part's ranking, from 1."""
    of: int
    """Latents that could have been in that ranking."""
    score: float
    """What the part is ranked by."""
    figure: str
    """What the score is."""
    share: float
    """What this adds to the hit's score."""
    text: str
    """The same in words, with the figures that matter."""


@dataclass(frozen=True)
class Hit:
    """A latent that was found."""

    latent: int
    score: float
    """Sum of the reasons' shares (reciprocal rank fusion)."""
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class SearchResult:
    """The hits of a query, best first, and what the user should know of how they were found."""

    hits: tuple[Hit, ...]
    notes: tuple[str, ...]
    """Warnings, and what was left out."""
    about: Sequence[tuple[str, Any]] = ()
    """How each part was computed: its settings and counts, by the part's name."""

    def data(self) -> dict[str, Any]:
        """The same as JSON data."""
        return {
            "hits": [asdict(hit) for hit in self.hits],
            "notes": list(self.notes),
            "about": dict(self.about),
        }
