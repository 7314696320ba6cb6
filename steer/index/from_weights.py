"""What the weights of an SAE alone tell of a latent."""

import numpy as np

from saes import SAE
from steer.index.card import Card, with_ids
from steer.index.layout import BINS, LOGITS, NONE_ID, check_latent, histogram_edges
from steer.index.neighbours import similar
from steer.index.render import Renderer
from steer.index.tables import lens_of
from steer.models.model import LanguageModel


def card_of_weights(sae: SAE, lm: LanguageModel, latent: int) -> tuple[Card, Renderer]:
    """A card without windows and counts: tokens promoted and suppressed, and latents that write alike.

    Raises:
        DataError: there is no such latent.
    """
    check_latent(latent, sae.config.d_sae, "SAE")
    ids, cosines = similar(sae.W_dec, range(latent, latent + 1))
    lens, _ = lens_of(lm, sae)
    promoted: tuple[tuple[int, float], ...] = ()
    suppressed = promoted
    if lens is not None:
        tokens, logits = (one[0].numpy() for one in lens.extremes(sae.W_dec[latent : latent + 1], LOGITS, NONE_ID))
        promoted, suppressed = (with_ids(tokens[half], logits[half]) for half in (slice(LOGITS), slice(LOGITS, None)))
    weights = {"encoder_norm": float(sae.W_enc[:, latent].norm()), "decoder_norm": float(sae.W_dec[latent].norm())}
    card = Card(
        latent=latent,
        windows=(),
        histogram=np.zeros(BINS, dtype=np.uint32),
        edges=histogram_edges(1.0),
        promoted=promoted,
        suppressed=suppressed,
        coactive=(),
        similar=with_ids(ids[0], cosines[0]),
        columns=weights | {"encoder_bias": float(sae.b_enc[latent])},
        by_position={},
        by_role={},
        labels=(),
        notes=(),
        tags=(),
    )
    return card, Renderer.of(lm.tokenizer)
