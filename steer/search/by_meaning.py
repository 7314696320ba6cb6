"""Latents by what their labels mean."""

import numpy as np

from steer.errors import DataError
from steer.search.indexed import Indexed, Stored
from steer.search.label_vectors import LabelVectors, label_vectors
from steer.search.meaning import Embedder, similarities
from steer.search.ranked import Allowed, Ranking, best_first


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
