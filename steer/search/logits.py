"""Latents that push towards or away from a token: the logit lens."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from saes import SAE
from steer.errors import DataError, ModelError
from steer.models.model import LanguageModel
from steer.search.direction import cosines

_FINAL_NORMS = (  # paths from the root to the norm before the unembedding
    "model.norm",
    "transformer.ln_f",
    "gpt_neox.final_layer_norm",
    "model.decoder.final_layer_norm",
    "model.final_layernorm",
    "model.language_model.norm",
    "language_model.norm",
)


def token_id(lm: LanguageModel, token: str | int) -> int:
    """The number of a token: a number itself, or a text that is exactly one token.

    Raises:
        DataError: the model has no such token, or the text is not one token.
    """
    if isinstance(token, int) and not isinstance(token, bool):
        size = lm.vocabulary or len(lm.tokenizer)
        if not 0 <= token < size:
            raise DataError(f"Token {token} is out of range: the model has {size}, numbered from 0.")
        return token
    if not isinstance(token, str) or not token:
        raise DataError(f"A token is a text or a number, got {token!r}.")
    ids = lm.encode([token])[0]
    if len(ids) != 1:
        parts = ", ".join(f"{lm.tokenizer.decode([one])!r} ({one})" for one in ids)
        raise DataError(
            f"{token!r} is {len(ids)} tokens of this model: {parts}. Give one of them, by its text or by its number, "
            f"such "
            f"as #{ids[0] if ids else 0}."
        )
    return ids[0]


def first_token(lm: LanguageModel, text: str | int) -> int:
    """The number of the first token of a text.

    Raises:
        DataError: the text is empty, or no Unicode.
    """
    if isinstance(text, int):
        return token_id(lm, text)
    ids = lm.encode([text])[0]
    if not ids:
        raise DataError(f"{text!r} has no token.")
    return ids[0]


def token_direction(lm: LanguageModel, token: int) -> Float[Tensor, " d_model"]:
    """The direction of the last residual stream that raises a token's logit above the average of all tokens.

    The token's row of the unembedding less the mean of all rows, times the weight of the final norm (one plus it, in
    Gemma), which stands between them. What later layers make of a latent's output is not in it.

    Raises:
        ModelError: the model has no matrix of output embeddings.
    """
    find: Any = getattr(lm.model, "get_output_embeddings", lambda: None)
    weight = getattr(find(), "weight", None)
    if weight is None or weight.ndim != 2:
        raise ModelError(f"{lm.name} has no matrix of output embeddings, which tokens are looked up in.")
    unembedding = weight.detach()
    row = unembedding[token].float() - unembedding.float().mean(0)
    scale = _norm_weight(lm)
    return row if scale is None else row * scale.to(row.device)


def _norm_weight(lm: LanguageModel) -> Float[Tensor, " d_model"] | None:
    """What the final norm multiplies by; None where it has no weight, or is not found."""
    for path in _FINAL_NORMS:
        module: nn.Module | None = lm.model
        for name in path.split("."):
            module = getattr(module, name, None)
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.shape == (lm.d_model,):
            found = weight.detach().float()
            return found + 1 if "Gemma" in type(module).__name__ and "3n" not in type(module).__name__ else found
    return None


def promotes(lm: LanguageModel, sae: SAE, token: int) -> Float[np.ndarray, " d_sae"]:
    """Cosine between what each latent writes and what raises a token's logit above the average, by the logit lens.

    Negative: the latent suppresses the token.

    Raises:
        ModelError: see ``token_direction``.
        DataError: the SAE writes another width.
    """
    with torch.no_grad():
        return cosines(sae.W_dec, token_direction(lm, token))
