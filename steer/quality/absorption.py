"""Feature absorption (Chanin et al., arXiv 2409.14507): of first letters, as SAEBench does, and of classes of prompts.

What is measured is the same; only the concepts differ. A small model knows no letters, but it knows kinds of prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saes import SAE
from saes.metrics.absorption import absorbed, split_latents
from saes.metrics.logistic import f1_score, fit_logistic
from saes.metrics.sparse_probe import rank_by_l1_probe
from steer.evals.sample import Sample
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.quality.letters import LETTERS, split_words, vocabulary_words, word_activations
from steer.quality.prompts import PromptReadings, class_labels, class_names

MOST_LATENTS = 10  # latents of a concept at most
LEAST_F1 = 0.6  # of the probe on the activations: else the model does not have the concept there
ENOUGH_LETTERS = 20  # that the model has: SAEBench gives no score for fewer
_LEAST_EXAMPLES = 5  # of a concept, to fit a probe on


@dataclass(frozen=True)
class ConceptAbsorption:
    """One concept."""

    name: str
    probe_f1: float
    """F1 of the linear probe on the activations, on examples that it was not fitted on."""
    latents: tuple[int, ...]
    """The concept's own latents."""
    latent_f1: float
    """F1 of the probe on these latents."""
    examples: int
    """Examples of the concept that the probe on the activations recognises: those that are looked at."""
    fraction: float
    """Mean absorption fraction over them."""
    full: float
    """Share of them that is fully absorbed."""


@dataclass(frozen=True)
class Absorption:
    """Of the concepts that the model has."""

    concepts: tuple[ConceptAbsorption, ...]
    """Those whose probe exceeds ``LEAST_F1``."""
    tried: int
    """Concepts with enough examples."""
    probe_f1: float
    """Mean F1 of the probes over all concepts tried; NaN without any."""

    def mean(self, name: str) -> float:
        """Mean over the concepts of ``fraction``, ``full`` or another of their figures; NaN without any."""
        values = [getattr(one, name) for one in self.concepts]
        return sum(values) / len(values) if values else float("nan")


@dataclass(frozen=True)
class Labelled:
    """Activations of examples, and which of the concepts each of them has."""

    x: Float[Tensor, "n d_model"]
    labels: Bool[Tensor, "n concepts"]


def first_letters(lm: LanguageModel, sae: SAE, site: Site, seed: int = 0) -> Absorption:
    """Absorption of the first letters of the vocabulary's words, read after examples of that question.

    Raises:
        DataError: the vocabulary has too few words.
    """
    splits = [
        Labelled(
            word_activations(lm, site, words, seed),
            torch.tensor([[word.letter == place for place in range(len(LETTERS))] for word in words]),
        )
        for words in split_words(vocabulary_words(lm), seed)
    ]
    return absorption(sae, splits[0], splits[1], LETTERS)


def prompt_classes(
    sae: SAE,
    train: PromptReadings,
    train_samples: Sequence[Sample],
    test: PromptReadings,
    test_samples: Sequence[Sample],
) -> Absorption:
    """Absorption of the sets and categories of prompts, read at the last token of the prompt."""
    names = class_names(train_samples)
    splits = [
        Labelled(readings.last, class_labels(samples, names))
        for readings, samples in ((train, train_samples), (test, test_samples))
    ]
    return absorption(sae, splits[0], splits[1], names)


@torch.no_grad()
def absorption(sae: SAE, train: Labelled, test: Labelled, names: Sequence[str]) -> Absorption:
    """Fit the probes of all concepts, find each concept's own latents, and see where others have taken over."""
    x_train, x_test = train.x.cpu(), test.x.cpu()
    sae = sae.on(x_train.device)
    codes_train, codes_test = sae.encode(x_train).to_dense(), sae.encode(x_test).to_dense()
    enough = (train.labels.sum(0) >= _LEAST_EXAMPLES) & (test.labels.sum(0) > 0)
    tried = enough.nonzero().squeeze(-1).tolist()
    if not tried:
        return Absorption((), 0, float("nan"))
    ranked = rank_by_l1_probe(codes_train, train.labels[:, tried], MOST_LATENTS)
    concepts, f1s = [], []
    for number, place in enumerate(tried):
        y_train, y_test = train.labels[:, place], test.labels[:, place]
        probe = fit_logistic(x_train, y_train, balanced=True)
        positive = probe.scores(x_test) > 0
        f1s.append(f1_score(positive, y_test))
        if f1s[-1] <= LEAST_F1:
            continue
        scores = _sparse_f1(codes_train, codes_test, y_train, y_test, ranked[number])
        own = split_latents(ranked[number], scores)
        seen = positive & y_test
        found = absorbed(x_test[seen], codes_test[seen], sae.W_dec, probe.weight, own)
        concepts.append(
            ConceptAbsorption(
                name=names[place],
                probe_f1=f1s[-1],
                latents=tuple(own.tolist()),
                latent_f1=scores[len(own) - 1],
                examples=int(seen.sum()),
                fraction=found.fraction.double().mean().item(),
                full=found.full.double().mean().item(),
            )
        )
    return Absorption(tuple(concepts), len(tried), sum(f1s) / len(f1s))


def _sparse_f1(
    codes_train: Float[Tensor, "n d_sae"],
    codes_test: Float[Tensor, "m d_sae"],
    y_train: Bool[Tensor, " n"],
    y_test: Bool[Tensor, " m"],
    ranked: Tensor,
) -> list[float]:
    """F1 of the probes on the first 1, 2, ... of the ranked latents."""
    scores = []
    for k in range(1, len(ranked) + 1):
        probe = fit_logistic(codes_train[:, ranked[:k]], y_train, balanced=True)
        scores.append(f1_score(probe.scores(codes_test[:, ranked[:k]]) > 0, y_test))
    return scores
