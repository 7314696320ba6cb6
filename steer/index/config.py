"""Settings of a build."""

from dataclasses import asdict, dataclass
from typing import Any

from steer.activations.policy import TokenPolicy
from steer.checks import require_whole
from steer.errors import DataError
from steer.index.layout import Sizes
from steer.search.policy import SINK_RATIO

POLICY = TokenPolicy(form="documents", max_norm_ratio=SINK_RATIO)
"""What counts if nobody says otherwise: no first token of a row or document, no tokens of ten times the usual norm."""


@dataclass(frozen=True)
class IndexConfig:
    """What is read, and what is kept of it."""

    tokens: int | None = None
    """Stop after so many tokens of text; None: at its end."""
    examples: int = 45
    """Examples of a latent: four ninths of them the strongest, the others samples of the strata."""
    window: int = 64
    """Tokens of an example, at most."""
    policy: TokenPolicy = POLICY
    """How text becomes rows, and which tokens count; the token that begins a sequence never does."""
    roles: bool = True
    """Tell whose words the tokens of conversations are."""
    per_peak_token: int = 5
    """Of the strongest examples, so many have the same strongest token, as long as there are others."""
    seed: int = 0
    """Of the samples."""
    forward_tokens: int = 8192
    """Tokens of one pass of the model at most, padding included (a longer row runs alone)."""
    window_rows: int = 64
    """Rows read together, so that rows of similar length share a pass."""
    chunk_tokens: int = 65_536
    """A kill costs the work on so many tokens."""
    chunk_hits: int = 2**23
    """Active latents of tokens that are held in memory at once (12 bytes each, several times)."""
    pairs: int = 2**31
    """Pairs of latents that are counted for the co-activation; where there are more, some of the tokens are taken."""
    shard_latents: int = 32_768
    """Latents of one file."""

    def __post_init__(self) -> None:
        if self.tokens is not None:
            require_whole("tokens", self.tokens, DataError, least=2)
        names = ("per_peak_token", "forward_tokens", "window_rows", "chunk_tokens", "chunk_hits", "pairs")
        for name in names:
            require_whole(name, getattr(self, name), DataError)
        require_whole("seed", self.seed, DataError, least=0)
        self.sizes(1)

    def sizes(self, d_sae: int) -> Sizes:
        """Sizes of the arrays for an SAE of so many latents."""
        return Sizes(d_sae, self.examples, self.window, self.shard_latents)

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON data."""
        found = asdict(self)
        found["policy"]["exclude_ids"] = list(self.policy.exclude_ids)
        return found


DEFAULT = IndexConfig()
