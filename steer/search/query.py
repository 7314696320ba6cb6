"""What a search asks: one object, any mixture of parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from torch import Tensor

from steer.checks import hint, require_finite, require_whole
from steer.errors import DataError
from steer.models.chat import Conversation
from steer.search.contrast import ContrastConfig
from steer.search.fuse import K
from steer.search.parts import REPLY_TOKENS, check_part
from steer.search.pooled import Pool

Prompts = Sequence[str | Conversation]


@dataclass(frozen=True)
class PromptQuery:
    """What fires on a prompt or conversation; ranked by activation, in units of the latent's maximum, times rarity."""

    prompt: str | Conversation
    part: str = "whole"
    """Which tokens count, see ``steer.search.parts.rows_of``."""
    pool: Pool = "max"
    """Over those tokens: the largest activation, or the mean with silent tokens."""
    reply_tokens: int = REPLY_TOKENS
    """Tokens of the model's own reply, at most, where ``part`` is ``reply`` and the conversation has none."""

    def __post_init__(self) -> None:
        check_part(self.part)
        require_whole("reply_tokens", self.reply_tokens, DataError)


@dataclass(frozen=True)
class ContrastQuery:
    """What fires more on the first set of prompts than on the second."""

    first: Prompts
    second: Prompts
    part: str = "whole"
    pool: Pool = "max"
    reply_tokens: int = REPLY_TOKENS
    config: ContrastConfig = field(default_factory=ContrastConfig)

    def __post_init__(self) -> None:
        check_part(self.part)
        require_whole("reply_tokens", self.reply_tokens, DataError)


@dataclass(frozen=True)
class MeansQuery:
    """Direction from the mean activation of one set of prompts to another's, at the last prompt token."""

    first: Prompts
    """Where it leads to."""
    second: Prompts
    """Where it comes from."""


@dataclass(frozen=True)
class AttributionQuery:
    """What adds to ``logit(toward) - logit(against)`` where the reply to each of some prompts begins."""

    prompts: Prompts
    toward: str | int
    """A text, of which the first token counts, or the number of a token."""
    against: str | int
    steps: int | None = None
    """Points of integrated gradients; None: gradient times activation."""


@dataclass(frozen=True)
class Query:
    """Parts of a search; latents are ranked by each that is given, and the rankings fused by rank.

    Raises:
        DataError: nothing is asked for, or a number or a weight is none.
    """

    words: str | None = None
    """Words in labels and in the tokens that latents fire on and promote."""
    meaning: str | None = None
    """Labels that mean something similar; needs an embedder."""
    promotes: str | int | None = None
    """A token (text or number) that the latent pushes towards, by the logit lens."""
    suppresses: str | int | None = None
    """A token that it pushes away from."""
    prompt: PromptQuery | None = None
    contrast: ContrastQuery | None = None
    like: int | None = None
    """Another latent: what writes along the same direction. Itself is left out."""
    direction: Tensor | str | Path | None = None
    """[d_model], or a safetensors file that holds one vector, or ``FILE:TENSOR``."""
    means: MeansQuery | None = None
    attribution: AttributionQuery | None = None
    by: str | None = None
    """A column of the index, the largest first; ``-name``: the smallest first."""
    filters: Sequence[str] = ()
    """All of which must hold: ``density<0.01``, ``1e-5<density<0.01``, ``max>5``, ``label``, ``no-label``."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of the parts in the fusion, by name; 1 where none is given."""
    limit: int = 20
    """Hits, at most."""
    depth: int = 1_000
    """Latents of each ranking that count in the fusion, at most."""
    k: float = K
    """The constant of reciprocal rank fusion: the larger, the less the first ranks stand out."""

    def __post_init__(self) -> None:
        for name in ("limit", "depth"):
            require_whole(name, getattr(self, name), DataError)
        require_finite("k", self.k, DataError)
        if self.k < 0:
            raise DataError(f"k must not be negative, got {self.k}.")
        for name, weight in self.weights.items():
            if name not in PARTS_OF_A_QUERY:
                raise DataError(f"No part of a query is called {name!r}. {hint(name, PARTS_OF_A_QUERY, 'There are')}")
            require_finite(f"The weight of {name}", weight, DataError)
            if weight < 0:
                raise DataError(f"The weight of {name} must not be negative, got {weight}.")
        if not self.asked:
            raise DataError(f"Nothing is asked for: give one of {', '.join(PARTS_OF_A_QUERY)}.")

    @property
    def asked(self) -> tuple[str, ...]:
        """Names of the parts that are given."""
        return tuple(name for name in PARTS_OF_A_QUERY if getattr(self, name) is not None)


_SETTINGS = ("filters", "weights", "limit", "depth", "k")
PARTS_OF_A_QUERY = tuple(one.name for one in fields(Query) if one.name not in _SETTINGS)
