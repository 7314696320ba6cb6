"""What the weights of an SAE alone tell of a latent."""

import numpy as np

from saes import SAE
from steer.checks import require_whole
from steer.errors import DataError
from steer.index.card import Card
from steer.index.layout import BINS, LOGITS, NONE_ID
from steer.index.neighbours import similar
from steer.index.read import histogram_edges
from steer.index.render import Renderer
from steer.index.tables import lens_of
from steer.models.model import LanguageModel


def card_of_weights(sae: SAE, lm: LanguageModel, latent: int) -> tuple[Card, Renderer]:
    """A card without windows and counts: tokens promoted and suppressed, and latents that write alike.

    Raises:
        DataError: there is no such latent.
    """
    require_whole("latent", latent, DataError, least=0)
    if latent >= sae.config.d_sae:
        raise DataError(f"Latent {latent} is out of range: the SAE has latents 0 to {sae.config.d_sae - 1}.")
    ids, cosines = similar(sae.W_dec, range(latent, latent + 1))
    lens, _ = lens_of(lm, sae)
    logits: list[tuple[int, float]] = []
    if lens is not None:
        tokens, values = lens.extremes(sae.W_dec[latent : latent + 1], LOGITS, NONE_ID)
        logits = list(zip(tokens[0].tolist(), values[0].tolist(), strict=True))
    neighbours = zip(ids[0].tolist(), cosines[0].tolist(), strict=True)
    weights = {"encoder_norm": float(sae.W_enc[:, latent].norm()), "decoder_norm": float(sae.W_dec[latent].norm())}
    card = Card(
        latent=latent,
        windows=(),
        histogram=np.zeros(BINS, dtype=np.uint32),
        edges=histogram_edges(1.0),
        promoted=tuple(one for one in logits[:LOGITS] if one[0] != NONE_ID),
        suppressed=tuple(one for one in logits[LOGITS:] if one[0] != NONE_ID),
        coactive=(),
        similar=tuple(one for one in neighbours if one[0] != NONE_ID),
        columns=weights | {"encoder_bias": float(sae.b_enc[latent])},
        by_position={},
        by_role={},
        labels=(),
        notes=(),
        tags=(),
    )
    return card, Renderer.of(lm.tokenizer)
