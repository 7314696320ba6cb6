"""Rankings that an index gives by itself: by words, by the meaning of labels, by a column, by tokens it has listed."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool

from steer.errors import DataError
from steer.search.filters import column
from steer.search.indexed import Indexed, Stored
from steer.search.label_vectors import LabelVectors, label_vectors
from steer.search.meaning import Embedder, similarities
from steer.search.ranked import Ranking, best_first, kept

Allowed = Bool[np.ndarray, " d_sae"] | None


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

    return _listed(index, "words", found, allowed, depth, "score of words", says)


def by_meaning(
    index: Indexed, question: str, embed: Embedder, allowed: Allowed, depth: int
) -> tuple[Ranking, LabelVectors]:
    """Latents by the cosine of the nearest of their labels with a question, and the vectors of these labels.

    Raises:
        DataError: the index has no label.
    """
    labels = [label for label in index.all_labels() if allowed is None or allowed[label.latent]]
    if not labels:
        raise DataError(
            "No latent that the filters leave has a label, so none can be found by its meaning. Import labels."
        )
    texts = list(dict.fromkeys(label.text for label in labels))
    found = label_vectors(embed, texts, index.folder if isinstance(index, Stored) else None)
    cosines = dict(zip(texts, similarities(embed, question, texts, found.vectors).tolist(), strict=True))
    scores, nearest = np.full(index.d_sae, -np.inf), {}
    for label in labels:
        if cosines[label.text] > scores[label.latent]:
            scores[label.latent], nearest[label.latent] = cosines[label.text], label.text
    latents = best_first(scores, allowed, depth)

    def says(place: int) -> str:
        latent = int(latents[place])
        return f"its label means much the same: {nearest[latent]!r}, cosine {scores[latent]:.2f}"

    return Ranking("meaning", latents, scores[latents], "cosine of a label", says, len(nearest)), found


def by_column(index: Indexed, name: str, allowed: Allowed, depth: int) -> Ranking:
    """Latents by a column of the index, the largest first, or with ``-name`` the smallest; those without are left out.

    Raises:
        DataError: there is no such column.
    """
    down = name.startswith("-")
    values = np.asarray(column(index.columns, name.removeprefix("-"), index.d_sae), dtype=np.float64)
    usable = np.isfinite(values) & (True if allowed is None else allowed)
    places = np.flatnonzero(usable)
    keys = values[places] if down else -values[places]
    if len(places) > depth:
        near = keys <= np.partition(keys, depth - 1)[depth - 1]  # ties with the last are all looked at
        places, keys = places[near], keys[near]
    latents = places[np.lexsort((places, keys))][:depth]
    own = name.removeprefix("-")
    return Ranking(
        "by", latents, values[latents], own, lambda place: f"{own} {values[latents[place]]:.4g}", int(usable.sum())
    )


def by_listed_token(
    index: Indexed, kind: Literal["promotes", "suppresses"], token: int, shown: str, allowed: Allowed, depth: int
) -> Ranking:
    """Latents that have a token in their lists of those promoted or suppressed most."""
    listed = index.promoting if kind == "promotes" else index.suppressing
    found = listed(token, depth if allowed is None else index.d_sae)

    def says(latent: int, logit: float) -> str:
        return f"{kind} {shown}, which is among its strongest tokens: logit {logit:+.3g}"

    return _listed(index, kind, found, allowed, depth, "logit", says)


def _listed(
    index: Indexed,
    kind: str,
    found: Sequence[tuple[int, float]],
    allowed: Allowed,
    depth: int,
    figure: str,
    says: Callable[[int, float], str],
) -> Ranking:
    """A list of latents with scores as a ranking."""
    places = kept([latent for latent, _ in found], allowed, depth)
    latents = np.array([found[place][0] for place in places], dtype=np.int64)
    scores = np.array([found[place][1] for place in places], dtype=np.float64)
    return Ranking(
        kind, latents, scores, figure, lambda place: says(int(latents[place]), float(scores[place])), index.d_sae
    )
