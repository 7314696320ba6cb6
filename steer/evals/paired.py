"""Two runs on the same prompts: what changed, and whether that can be luck."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from steer.errors import DataError
from steer.evals.stats import Floats, percentiles

DRAWS = 10_000  # of the paired bootstrap, and of exchanges
_EVERY = 13  # clusters whose exchanges are all gone through
_CHUNK = 256  # exchanges at a time


@dataclass(frozen=True)
class Paired:
    """The difference of a figure between two runs, other less base, over the samples that both have scored."""

    n: int
    """Samples that both have scored."""
    base: float
    other: float
    difference: float
    low: float | None
    """95 % interval of the difference by the paired bootstrap over clusters; None for fewer than two clusters."""
    high: float | None
    gained: int
    """Samples whose part is larger in the other run."""
    lost: int
    """Samples whose part is smaller."""
    p: float
    """Two-sided, of no difference: McNemar's exact test where all parts are 0 or 1, else ``exchanged_p``."""


def paired(base: Sequence[float], other: Sequence[float], clusters: Sequence[Hashable], seed: int = 0) -> Paired:
    """Compare two runs sample by sample; ``clusters`` says which samples go together.

    Where samples of a cluster go together McNemar's test, which takes them for independent, finds too much: then the
    larger of its p and that of exchanging the runs in whole clusters counts (``exchanged_p``).

    Raises:
        DataError: there are no samples, or not as many of each.
    """
    if not base or len(base) != len(other) or len(base) != len(clusters):
        raise DataError(f"Pairs of at least one sample are needed, got {len(base)}, {len(other)} and {len(clusters)}.")
    first, second = np.asarray(base, dtype=np.float64), np.asarray(other, dtype=np.float64)
    differences = second - first
    gained, lost = int((differences > 0).sum()), int((differences < 0).sum())
    drawn = resampled_means(differences, clusters, seed)
    interval = None if drawn is None else percentiles(drawn)
    binary = bool(np.isin(np.concatenate([first, second]), (0.0, 1.0)).all())
    ps = [mcnemar_exact(gained, lost)] if binary else []
    if not binary or len(set(clusters)) < len(clusters):
        ps.append(exchanged_p(differences, clusters, seed))
    low, high = interval or (None, None)
    mean = float(differences.mean())
    return Paired(len(first), float(first.mean()), float(second.mean()), mean, low, high, gained, lost, max(ps))


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided p of McNemar's exact test: the discordant pairs as tosses of a fair coin; 1 where there are none."""
    n, fewer = gained + lost, min(gained, lost)
    return min(1.0, 2 * sum(comb(n, k) for k in range(fewer + 1)) / 2**n) if n else 1.0


def exchanged_p(differences: Floats, clusters: Sequence[Hashable], seed: int = 0) -> float:
    """Two-sided p of no difference: how often the sum would be as far from 0 if each cluster's sign were a fair coin.

    Fisher's randomisation test for pairs, of whole clusters: were the runs alike, either could have been the other. It
    holds for any number of clusters; k that differ can give no p below 2 / 2^k, so that one alone says nothing, where
    p-values of the bootstrap come out too small by much. Of single samples that are 0 or 1 it is McNemar's exact test.
    """
    totals = _sums(differences, clusters)
    totals = totals[totals != 0]
    if not len(totals):
        return 1.0
    least = abs(totals.sum()) * (1 - 1e-9)  # sums in another order are not the same to the last bit
    if len(totals) <= _EVERY:
        signs = 1 - 2 * (np.arange(2 ** len(totals))[:, None] >> np.arange(len(totals)) & 1)
        return float((np.abs(signs @ totals) >= least).mean())
    generator, far = np.random.default_rng(seed), 0
    for start in range(0, DRAWS, _CHUNK):
        shape = (min(_CHUNK, DRAWS - start), len(totals))
        far += int((np.abs((1 - 2 * generator.integers(0, 2, shape, dtype=np.int8)) @ totals) >= least).sum())
    return (far + 1) / (DRAWS + 1)


def resampled_means(differences: Floats, clusters: Sequence[Hashable], seed: int = 0) -> Floats | None:
    """Means of the differences when clusters are drawn with replacement, [draws]; None for fewer than two clusters."""
    sums, counts = _sums(differences, clusters), _sums(np.ones(len(differences)), clusters)
    if (n := len(sums)) < 2:
        return None
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    drawn: Floats = (weights @ sums) / (weights @ counts)
    return drawn


def _sums(values: Floats, clusters: Sequence[Hashable]) -> Floats:
    """Sums within each cluster, [clusters], in the order in which they first stand."""
    places = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    return np.bincount([places[name] for name in clusters], values).astype(np.float64)


def holm(ps: Sequence[float]) -> list[float]:
    """P-values adjusted for being a family (Holm 1979): the chance of one false finding among all is kept."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = largest
    return adjusted
