"""The one interface for everything that answers conversations, so that evaluation and sweeps treat all alike."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from steer.errors import DataError, ModelError
from steer.models.chat import Conversation
from steer.models.decode import Sampling
from steer.models.likelihood import Likelihood
from steer.models.model import LanguageModel

Prompts = Sequence[str | Conversation]
"""Conversations; a text is one turn of the user."""


@runtime_checkable
class Responder(Protocol):
    """A way of answering with a language model. Between two calls the model is as it was."""

    @property
    def name(self) -> str:
        """For tables, such as ``sae 821=4.5``."""
        ...

    @property
    def lm(self) -> LanguageModel:
        """The model that answers."""
        ...

    def settings(self) -> dict[str, Any]:
        """Everything that decides its replies, as JSON data."""
        ...

    def reply(self, conversations: Prompts, sampling: Sampling) -> list[str]:
        """Replies as text, in the order of the conversations; they do not depend on the batches.

        A reply that is a ``Reply`` tells too whether it ended by itself or at the limit of tokens.

        Raises:
            DataError: a conversation is malformed, too long, or refused by the chat template; logits are not finite.
        """
        ...

    def choice_logprobs(self, conversations: Prompts, options: Sequence[Sequence[str]]) -> list[list[float]]:
        """Log-probability of each option as the start of the reply; ``options`` has a list for each conversation."""
        ...


@runtime_checkable
class ScoresTexts(Protocol):
    """A responder that gives the likelihood of whole texts too, for perplexities."""

    def text_likelihoods(self, texts: Sequence[str]) -> list[Likelihood]:
        """Log-likelihood of each text after the token that begins sequences, in windows of the model's context.

        To interventions all of a text but that token is reply, and the user says it.

        Raises:
            DataError: a text is empty.
        """
        ...


def scores_texts(responder: Responder) -> ScoresTexts:
    """The responder, which gives likelihoods of texts.

    Raises:
        DataError: it does not.
    """
    if isinstance(responder, ScoresTexts):
        return responder
    raise DataError(
        f"The likelihood of a text is that of a model as it is, steered or tuned, and {responder.name} "
        f"({type(responder).__name__}) has none: an instruction is no part of the text. Leave the perplexity out."
    )


def check_responder(given: object) -> None:
    """Raise ModelError unless it can answer."""
    if isinstance(given, type) or not isinstance(given, Responder):
        raise ModelError(
            f"A LanguageModel or a Responder answers, got {type(given).__name__}. Load a model with load_model(name), "
            "or make a Responder: Unsteered(lm), Steered(lm, interventions), SystemPrompt(lm, text)."
        )


def fitted_on(responder: Responder) -> frozenset[str]:
    """Digests of the prompts that a responder, or what it is put on, was fitted on, as far as it says."""
    base = getattr(responder, "base", None)
    under = fitted_on(base) if isinstance(base, Responder) else frozenset()
    return under | frozenset(getattr(responder, "fitted_on", ()))
