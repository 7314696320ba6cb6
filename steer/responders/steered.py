"""A model, or another way of answering with it, under interventions."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from steer.errors import PlanError
from steer.models.decode import Sampling
from steer.models.likelihood import Likelihood
from steer.models.model import LanguageModel
from steer.responders.described import described
from steer.responders.prompted import SystemPrompt, Unsteered
from steer.responders.responder import Prompts, Responder, check_responder, scores_texts
from steer.steering.intervention import Intervention
from steer.steering.steered import check_fits, steered


@dataclass(frozen=True, eq=False)
class Steered:
    """Interventions on a model, or on what another responder does with it, during each of its calls.

    ``Steered(SystemPrompt(lm, text), ...)`` steers under a system prompt, as ``system`` does;
    ``Steered(SelfContrastive(lm), ...)`` steers both contexts.

    Raises:
        ModelError: ``base`` cannot answer.
        PlanError: an intervention does not fit the model, two set the same latent, or the system prompt has no place.
        SiteError: the model lacks a site.
    """

    base: LanguageModel | Responder
    interventions: Sequence[Intervention]
    system: str | None = None
    """A system prompt before every conversation."""
    name: str = "steered"
    fitted_on: Collection[str] = frozenset()
    """Digests of the prompts that the interventions were fitted or chosen on (``Bound.fitted_on``,
    ``Fitted.fitted_on``)."""
    _inner: Responder = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.interventions, Intervention):
            raise PlanError("Interventions are given as a list: Steered(lm, [one]).")
        object.__setattr__(self, "interventions", tuple(self.interventions))
        inner = Unsteered(self.base) if isinstance(self.base, LanguageModel) else self.base
        check_responder(inner)
        if self.system is not None:
            inner = _prompted(inner, self.system)
        check_fits(inner.lm, self.interventions)
        object.__setattr__(self, "_inner", inner)

    @property
    def lm(self) -> LanguageModel:
        """The model that answers."""
        return self._inner.lm

    def settings(self) -> dict[str, Any]:
        """Everything that decides its replies, as JSON data."""
        shown = [described(one) for one in self.interventions]
        return {"responder": "steered", "base": self._inner.settings(), "interventions": shown}

    def reply(self, conversations: Prompts, sampling: Sampling) -> list[str]:
        """Replies as text, in the order of the conversations."""
        with steered(self.lm, *self.interventions):
            return self._inner.reply(conversations, sampling)

    def choice_logprobs(self, conversations: Prompts, options: Sequence[Sequence[str]]) -> list[list[float]]:
        """Log-probability of each option as the start of the reply; ``options`` has a list for each conversation."""
        with steered(self.lm, *self.interventions):
            return self._inner.choice_logprobs(conversations, options)

    def text_likelihoods(self, texts: Sequence[str]) -> list[Likelihood]:
        """Log-likelihood of each whole text; see ``ScoresTexts``.

        Raises:
            DataError: what is steered gives none.
        """
        inner = scores_texts(self._inner)
        with steered(self.lm, *self.interventions):
            return inner.text_likelihoods(texts)


def _prompted(inner: Responder, system: str) -> Responder:
    """The same under a system prompt."""
    if isinstance(inner, Unsteered):
        return SystemPrompt(inner.lm, system, batch_size=inner.batch_size)
    raise PlanError(
        f"A system prompt is put before a model, but the base is a {type(inner).__name__}. Give it a text of its own, "
        "or steer SystemPrompt(lm, text)."
    )
