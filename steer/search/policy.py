"""Which tokens of a prompt count in a search: those that would have counted in the index."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steer.search.indexed import Indexed, Stored

SINK_RATIO = 10.0  # times the median norm: above it a token is a sink, if nobody says otherwise


@dataclass(frozen=True)
class IndexPolicy:
    """The index's own policy: densities and maxima of latents say nothing of tokens that it leaves out.

    Attention sinks have norms tens of times the usual, on which some latents fire many times harder than on any text.
    """

    excluded: frozenset[int] = frozenset()
    """Token ids that never count."""
    ratio: float | None = SINK_RATIO
    """Tokens whose norm at the site is above this multiple of the median do not count; None: all do."""
    median: float | None = None
    """The median norm of the index's text; None: that of the row itself, without its first token."""

    @classmethod
    def of(cls, index: Indexed) -> "IndexPolicy":
        """That of an index; where there is none on disk, that of an index built as it is by default."""
        if not isinstance(index, Stored):
            return cls()
        made = index.provenance
        ratio = made.get("policy", {}).get("max_norm_ratio")
        return cls(frozenset(made.get("excluded_ids", ())), ratio, made.get("median_norm"))

    def mask(self, ids: Sequence[int], x: Float[Tensor, "token d_in"]) -> Bool[Tensor, " token"]:
        """Which tokens of a row count, by their ids and their activations at the SAE's site."""
        found = torch.tensor([token not in self.excluded for token in ids], device=x.device)
        if self.ratio is None:
            return found
        norms = x.float().norm(dim=-1)
        median = self.median if self.median is not None else norms[1:].median().item() if len(norms) > 1 else 0.0
        return found & ~((norms > self.ratio * median) & norms.isfinite())


def policy_of(index: Indexed, part: str) -> IndexPolicy | None:
    """The policy for a part of prompts: none for the ``last`` token, which is asked for by its place."""
    return None if part == "last" else IndexPolicy.of(index)
