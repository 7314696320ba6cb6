"""Latents by words in their labels and tokens, as the index finds them."""

from steer.errors import DataError
from steer.search.indexed import Indexed
from steer.search.ranked import Allowed, Ranking, listed


def by_words(index: Indexed, words: str, allowed: Allowed, depth: int) -> Ranking:
    """Latents by words in their labels and tokens (BM25).

    Raises:
        DataError: there is no word.
    """
    if not words.strip():
        raise DataError("A search for words needs one.")
    found = index.words(words, depth if allowed is None else index.d_sae)  # filters may leave the last of them
    what = "tokens hold" if len(words.split()) == 1 else "tokens hold words of"

    def says(latent: int, score: float) -> str:
        labels = index.labels(latent)
        if not labels:
            return f"{what} {words!r} (score {score:.3g})"
        return f"labels or {what} {words!r} (score {score:.3g}); labelled {labels[0].text!r}"

    return listed("words", found, "score of words", says, allowed, depth, index.d_sae)
