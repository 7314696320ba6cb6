"""Latents that push towards or away from a token: the logit lens."""

from jaxtyping import Float
from torch import Tensor

from saes import SAE
from steer.errors import DataError
from steer.models.lens import Lens
from steer.models.model import LanguageModel
from steer.search.direction import along


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
            f"such as #{ids[0] if ids else 0}."
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


def promotes(lm: LanguageModel, sae: SAE, token: int) -> Float[Tensor, " d_sae"]:
    """Cosine between what each latent writes and what raises a token's logit above the average of all tokens.

    By the logit lens (``steer.models.lens``): what later layers make of a latent's output is not in it. Negative: the
    latent suppresses the token.

    Raises:
        ModelError: the model tells no output embedding.
        DataError: the SAE writes another width.
    """
    return along(sae.W_dec, Lens.of(lm).raising(token))
