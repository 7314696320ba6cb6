"""Batches of activations: how they are asked for, and what comes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from steer.checks import require_whole
from steer.errors import DataError
from steer.models.site import Site


@dataclass(frozen=True)
class StreamConfig:
    """How activations are mixed and handed out."""

    batch_tokens: int
    """Size of a batch, in tokens."""
    ring_tokens: int = 65_536
    """Size of the shuffle ring, in tokens (unused with shards, which are shuffled as a whole)."""
    seed: int = 0
    """Seed of the order."""
    endless: bool = True
    """Begin the text again when it ends; otherwise the last batch that is full is the last one."""
    ahead: int = 2
    """Model passes, or batches of shards, that a background thread makes in advance; 0: no thread."""
    device: str | None = None
    """Where the ring is and the batches are; None: where the model is, and with shards the CPU."""

    def __post_init__(self) -> None:
        require_whole("batch_tokens", self.batch_tokens, DataError)
        require_whole("ring_tokens", self.ring_tokens, DataError, least=self.batch_tokens)
        require_whole("seed", self.seed, DataError, least=0)
        require_whole("ahead", self.ahead, DataError, least=0)


Batch = dict[Site, Float[Tensor, "token d_model"]]
"""Activations of the same tokens at each site."""


def one_site(
    batches: Iterator[Batch], sites: Sequence[Site], site: Site | str | None
) -> Iterator[Float[Tensor, "token d_model"]]:
    """The batches of one site, which need not be named where there is but one.

    Raises:
        DataError: there is no such site, or there are several and none is named.
    """
    if site is None and len(sites) > 1:
        raise DataError(f"The stream has {len(sites)} sites: name one of {', '.join(map(str, sites))}.")
    chosen = sites[0] if site is None else Site.parse(site)
    if chosen not in sites:
        raise DataError(f"The stream does not have {chosen}, but {', '.join(map(str, sites))}.")
    return (batch[chosen] for batch in batches)
