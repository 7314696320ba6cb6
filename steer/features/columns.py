"""What the referee measured as figures by latent, as a feature index stores and sorts them."""

import math
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from steer.features.causal import Curve, Refereed

COLUMNS: Mapping[str, Callable[[Curve], float]] = {
    "steerability": lambda one: one.steerability,
    "steerability_error": lambda one: one.best.error,
    "best_strength": lambda one: one.best.strength,
    "refused_unsafe": lambda one: one.best.tally.unsafe,
    "refused_safe": lambda one: one.best.tally.safe,
    "lost_safe": lambda one: one.best.tally.lost,
    "kl": lambda one: one.best.damage.kl,
    "loss": lambda one: one.best.damage.loss,
    "repetition": lambda one: one.best.tally.repetition,
    "prompts": lambda one: one.best.tally.prompts,
    "safe_strength": lambda one: one.safe_strength,
    "safe_strength_max_act": lambda one: one.in_maxima(one.safe_strength),
    "safe_strength_resid_norm": lambda one: one.in_norms(one.safe_strength),
}
"""Of the best dose: the effect's standard error, the strength (raw), shares refused and lost, KL and loss in nats per
token, repetition, and prompts that it was measured on; and the largest safe strength, raw, in the latent's own largest
activations, and in mean norms of the residual stream."""


def columns(refereed: Refereed, d_sae: int, behaviour: str = "refusal") -> dict[str, Float[np.ndarray, " d_sae"]]:
    """Figures by name, such as ``refusal_steerability``: NaN for every latent that was not measured."""
    found = {f"{behaviour}_{name}": np.full(d_sae, math.nan, np.float32) for name in COLUMNS}
    for curve in refereed.curves:
        for name, figure in COLUMNS.items():
            found[f"{behaviour}_{name}"][curve.latent] = figure(curve)
    return found
