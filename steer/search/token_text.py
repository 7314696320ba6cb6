"""Which token is meant by a text: the text itself, or the same with or without a space before it."""

from collections.abc import Callable, Sequence

from steer.errors import DataError
from steer.models.model import LanguageModel
from steer.search.indexed import Indexed, Stored
from steer.search.logits import token_id

_SHOWN = 5  # tokens named in an error


def token_meant(lm: LanguageModel, text: str | int) -> tuple[int, str | None]:
    """The number of a token of a model, and a note where it is not exactly what was asked for.

    A word is often one token only with the space before it: where ``help`` is none, `` help`` is taken.

    Raises:
        DataError: the model has no such token.
    """
    try:
        return token_id(lm, text), None
    except DataError:
        if not isinstance(text, str) or not text.strip():
            raise
        for other in _variants(text)[1:]:
            ids = lm.encode([other])[0]
            if len(ids) == 1:
                return ids[0], f"{text!r} is no single token of this model: taken for {other!r}, #{ids[0]}."
        raise


def listed_token(index: Indexed, text: str | int) -> tuple[int, str | None]:
    """The same of an index alone, by the bytes of its tokens; and a note of which token was taken.

    Where several tokens read alike (a byte, and a piece of text that is this byte), the one that most latents list is
    meant: the tokenizer, which would tell, is not at hand.

    Raises:
        DataError: no token reads so; those that it begins with are named.
    """
    if isinstance(text, int):
        return text, None
    vocabulary = index.info.vocabulary if isinstance(index, Stored) else 0
    every = [index.renderer.token_bytes(number) for number in range(vocabulary)]
    return token_reading(text, every, lambda number: len(index.promoting(number, index.d_sae)))


def token_reading(text: str, every: Sequence[bytes], listed: Callable[[int], int]) -> tuple[int, str]:
    """The token among ``every`` one's bytes, of several alike the one most often ``listed``; and what was taken.

    Raises:
        DataError: none reads so.
    """
    variants = _variants(text)
    same = {one: [number for number, own in enumerate(every) if own == one.encode()] for one in variants}
    for one in variants:
        if same[one]:
            best = max(same[one], key=lambda number: (listed(number), -number))
            others = [f"{other!r} #{number}" for other in variants for number in same[other] if number != best]
            also = f"; there is {', '.join(others)} too" if others else ""
            return best, f"{text!r} was taken for the token {one!r}, #{best}{also}."
    raise DataError(
        f"No token of this index reads {text!r}, with or without a space before it. {_begun(every, variants)}"
    )


def _variants(text: str) -> list[str]:
    """The text, and the same with or without a space before it."""
    return [text, text.lstrip(" ") or text] if text.startswith(" ") else [text, f" {text}"]


def _begun(every: Sequence[bytes], variants: list[str]) -> str:
    """The longest tokens that a text begins with, for an error."""
    asked = [one.encode() for one in variants]
    found = [
        (number, own) for number, own in enumerate(every) if own.strip() and any(one.startswith(own) for one in asked)
    ]
    longest = sorted(found, key=lambda one: (-len(one[1].strip()), one[0]))[:_SHOWN]
    named = ", ".join(f"{own.decode('utf-8', 'replace')!r} (#{number})" for number, own in longest)
    return f"It begins with {named}. Give one of them by its number." if named else "Give a token by its #NUMBER."
