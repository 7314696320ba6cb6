"""Several rankings as one, by rank: reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from steer.search.hits import Hit, Reason
from steer.search.ranked import Ranking

K = 60  # of the paper


def fused(rankings: Sequence[Ranking], weights: Mapping[str, float], limit: int, k: float = K) -> list[Hit]:
    """The best latents by ``sum_j w_j / (k + rank_j)``, ranks from 1; a ranking without a latent adds nothing.

    Figures of different kinds are on different scales, ranks are not. ``weights`` are by the rankings' kinds, 1 where
    none is given. Of equal sums the lower latent comes first. Every hit has a reason from each ranking it is in.
    """
    sums: dict[int, float] = defaultdict(float)
    places: dict[int, list[tuple[Ranking, int]]] = defaultdict(list)
    for ranking in rankings:
        weight = weights.get(ranking.kind, 1.0)
        for place, latent in enumerate(ranking.latents.tolist()):
            sums[latent] += weight / (k + place + 1)
            places[latent].append((ranking, place))
    best = sorted(sums, key=lambda latent: (-sums[latent], latent))[:limit]
    return [
        Hit(latent, sums[latent], tuple(_reason(ranking, place, weights, k) for ranking, place in places[latent]))
        for latent in best
    ]


def _reason(ranking: Ranking, place: int, weights: Mapping[str, float], k: float) -> Reason:
    share = weights.get(ranking.kind, 1.0) / (k + place + 1)
    score = float(ranking.scores[place])
    return Reason(ranking.kind, place + 1, ranking.of, score, ranking.figure, share, ranking.says(place))
