"""Latents that promote or suppress a token: by the logit lens over all of them, or by the lists that an index keeps."""

from typing import Literal

import numpy as np

from saes import SAE
from steer.models.model import LanguageModel
from steer.search.indexed import Indexed
from steer.search.logits import promotes
from steer.search.ranked import Allowed, Ranking, listed, ranked

Pushes = Literal["promotes", "suppresses"]


def by_token(
    lm: LanguageModel, sae: SAE, kind: Pushes, token: int, shown: str, allowed: Allowed, depth: int
) -> Ranking:
    """Latents by the cosine of what they write with what raises (``promotes``) or lowers the logit of a token.

    ``shown`` is the token for people. Errors as ``steer.search.logits.promotes``.
    """
    scores = promotes(lm, sae, token).cpu().numpy().astype(np.float64) * (1.0 if kind == "promotes" else -1.0)
    return ranked(
        kind, scores, "cosine", lambda score: f"{kind} {shown}: cosine {score:.3f} by the logit lens", allowed, depth
    )


def by_listed_token(index: Indexed, kind: Pushes, token: int, shown: str, allowed: Allowed, depth: int) -> Ranking:
    """Latents that have a token in their lists of those promoted or suppressed most."""
    tokens_of = index.promoting if kind == "promotes" else index.suppressing
    found = tokens_of(token, depth if allowed is None else index.d_sae)

    def says(latent: int, logit: float) -> str:
        return f"{kind} {shown}, which is among its strongest tokens: logit {logit:+.3g}"

    return listed(kind, found, "logit", says, allowed, depth, index.d_sae)
