"""Rates and other figures, and their uncertainty."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054  # quantile of the normal distribution for a two-sided 95 % interval


@dataclass(frozen=True)
class Rate:
    """A share of successes with its 95 % Wilson interval."""

    successes: int
    n: int

    @property
    def rate(self) -> float | None:
        """Share of successes; None where nothing was counted (an empty run has no rate)."""
        return self.successes / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % Wilson score interval (Wilson 1927); None where nothing was counted."""
        return wilson(self.successes, self.n) if self.n else None

    def __str__(self) -> str:
        if self.rate is None or self.interval is None:
            return "no samples"
        low, high = self.interval
        return f"{100 * self.rate:.1f} % [{100 * low:.1f}, {100 * high:.1f}], n = {self.n}"


def wilson(successes: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a proportion: ``(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``."""
    p = successes / n
    centre = p + z * z / (2 * n)
    spread = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


DRAWS = 1000  # of the bootstrap
Floats = NDArray[np.float64]


def resamples(n: int, draws: int = DRAWS, seed: int = 0) -> Floats:
    """How often each of n texts (or other units) is taken when n are drawn with replacement, [draws, n] (Efron 1979).

    A figure of the whole, recomputed with these weights for each draw, spreads as it would over other texts.
    """
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)


def bootstrap(sums: Floats, figure: Callable[[Floats], Floats], seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile interval over texts of a figure of totals; None for fewer than two texts, or where it is NaN.

    ``sums`` [n, columns] holds what each text adds to the totals; ``figure`` makes [draws] of totals [draws, columns].
    """
    return None if len(sums) < 2 else percentiles(figure(resamples(len(sums), seed=seed) @ sums))


def percentiles(drawn: Floats) -> tuple[float, float] | None:
    """The middle 95 % of what was drawn; None where a figure is not finite."""
    if not np.isfinite(drawn).all():
        return None
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)
