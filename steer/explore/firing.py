"""Which latents fire on a prompt, token by token, on a scale that latents have in common where an index gives one."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saes import SAE
from steer.errors import DataError
from steer.explore.bench import Bench
from steer.models.roles import TEMPLATE, PromptIds, Said
from steer.search.firing import fired_tokens
from steer.search.policy import SINK_RATIO
from steer.search.pooled import Fired


@dataclass(frozen=True)
class Firing:
    """What fires on the tokens of a row that count: not on the first, and not on sinks (tokens of very large norm)."""

    ids: tuple[int, ...]
    """Token ids of the row."""
    said: Bool[np.ndarray, " token"]
    """Which tokens somebody says: what the chat template adds fires the same latents in every prompt."""
    fired: Fired
    shares: Float[np.ndarray, " fired"]
    """What latents are compared by, since they live on different scales: the activation as a fraction of the latent's
    largest in the index; without an index, the norm of what it contributes as a fraction of the token's."""

    sinks: tuple[int, ...] = ()
    """Places of the tokens that do not count for their norm."""

    def strongest(self, count: int) -> list[int]:
        """The latents with the largest share on any token that is said, the largest first."""
        best: dict[int, float] = {}
        said = self.said[self.fired.tokens]
        for latent, share in zip(self.fired.latents[said].tolist(), self.shares[said].tolist(), strict=True):
            best[latent] = max(share, best.get(latent, 0.0))
        return sorted(best, key=lambda latent: (-best[latent], latent))[:count]

    def peak(self, latent: int) -> tuple[int, float, float, int]:
        """Where its share is largest, activation and share there, and on how many tokens it fires; of what is said."""
        own = np.flatnonzero((self.fired.latents == latent) & self.said[self.fired.tokens])
        at = own[np.argmax(self.shares[own])]
        return int(self.fired.tokens[at]), float(self.fired.values[at]), float(self.shares[at]), len(own)

    def by_token(self, count: int) -> list[list[tuple[int, float, float]]]:
        """For each token the latents with the largest shares there, at most ``count``: latent, activation, share."""
        found: list[list[tuple[int, float, float]]] = [[] for _ in self.ids]
        for place in np.lexsort((self.fired.latents, -self.shares)):
            there = found[self.fired.tokens[place]]
            if len(there) < count:
                there.append(
                    (int(self.fired.latents[place]), float(self.fired.values[place]), float(self.shares[place]))
                )
        return found

    def of(self, latent: int) -> Float[np.ndarray, " token"]:
        """The activation of a latent on each token of the row."""
        values = np.zeros(len(self.ids))
        own = self.fired.latents == latent
        values[self.fired.tokens[own]] = self.fired.values[own]
        return values


@torch.no_grad()
def fires(bench: Bench, ids: PromptIds) -> Firing:
    """Run the model as it is over a prompt, and see what fires.

    Raises:
        DataError: the row is longer than the model's context.
    """
    x = bench.lm.activations(bench.lm.pad([ids]), [bench.site])[bench.site][0].float()
    norms = x.norm(dim=-1).cpu()
    sink = norms > _largest_norm(bench, norms[1:])
    sink[0] = False
    counts = (~sink & (torch.arange(len(ids)) > 0)).nonzero()[:, 0]
    tokens, latents, values = fired_tokens(bench.sae, x[counts.to(x.device)])
    fired = Fired(latents, values, counts.numpy()[tokens], len(counts))
    tops, sinks, said = bench.columns.get("max"), tuple(sink.nonzero()[:, 0].tolist()), _said(bench, ids)
    if tops is None:
        return Firing(tuple(ids), said, fired, _of_norm(bench.sae, x, fired), sinks)
    largest = np.asarray(tops[latents], dtype=np.float64)
    unseen = ~(largest > 0)  # it never fired in the index's text: this is the largest activation that is known of it
    return Firing(tuple(ids), said, fired, np.where(unseen, 1.0, values / np.where(unseen, 1.0, largest)), sinks)


def _said(bench: Bench, ids: PromptIds) -> Bool[np.ndarray, " token"]:
    """Which tokens somebody says; all, where the template does not let it be told."""
    try:
        said = Said(bench.lm.tokenizer, {0: ids}).roles(torch.tensor([0]))[0] != TEMPLATE
    except DataError:
        return np.ones(len(ids), dtype=bool)
    return said.numpy()


def sink_ratio(bench: Bench) -> float | None:
    """A token of more than this multiple of the usual norm is a sink, by the index's own rule; None: none is."""
    made = {} if bench.index is None else bench.index.provenance
    ratio: float | None = made.get("policy", {}).get("max_norm_ratio", SINK_RATIO)
    return ratio


def _largest_norm(bench: Bench, norms: Float[Tensor, " token"]) -> float:
    """The norm above which a token is a sink: by the index's median or, without one, by that of the row."""
    made, ratio = {} if bench.index is None else bench.index.provenance, sink_ratio(bench)
    median = made.get("median_norm") or (norms.median().item() if len(norms) else 0.0)
    return float("inf") if ratio is None else ratio * median


def _of_norm(sae: SAE, x: Float[Tensor, "token d_model"], fired: Fired) -> Float[np.ndarray, " fired"]:
    """Norm of what each latent contributes to a token, as a fraction of the token's."""
    scale, norms = sae.output_scale(x), x.norm(dim=-1)
    unit = norms if scale is None else norms / scale[:, 0]
    rows = torch.linalg.vector_norm(sae.W_dec.detach(), dim=-1, dtype=torch.float32).cpu().numpy()
    return fired.values * rows[fired.latents] / unit.cpu().numpy()[fired.tokens]
