"""Applying interventions to a language model, for the length of a block or until a handle is released."""

from collections import defaultdict

from steer.errors import ModelError, PlanError
from steer.models.hooks import Attachment, attached
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.steering.interventions import Intervention, combine


class Steering:
    """Interventions attached to a model: a context manager, or a handle with ``remove``."""

    def __init__(self, lm: LanguageModel, attachment: Attachment) -> None:
        self._lm = lm
        self.attachment = attachment
        lm.attachments.append(attachment)

    def remove(self) -> None:
        """Take the interventions off; calling it again does nothing."""
        self.attachment.remove()
        if self.attachment in self._lm.attachments:
            self._lm.attachments.remove(self.attachment)

    def __enter__(self) -> "Steering":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.remove()
        if kind is None:
            self.attachment.check_fired()


def steered(lm: LanguageModel, *interventions: Intervention) -> Steering:
    """Steer a model for the length of a ``with`` block, or keep the handle and call its ``remove``.

    Everything is checked before the first hook is attached, so after an error the model is as it was.

    Raises:
        PlanError: an intervention does not fit the model, or two set the same latent at one site.
        ModelError: ``lm`` is a bare model.
        SiteError: the model lacks a site; or, at the end of the block, the model ran and a site was never reached.
    """
    if not isinstance(lm, LanguageModel):
        raise ModelError(
            f"A LanguageModel is steered, got {type(lm).__name__}. Make one: load_model(name), or "
            "LanguageModel(model, tokenizer, name)."
        )
    by_site: dict[Site, list[Intervention]] = defaultdict(list)
    for intervention in interventions:
        if not isinstance(intervention, Intervention):
            raise PlanError(
                f"An intervention is a Clamp or an AddDirection, got {type(intervention).__name__}. "
                "Give several one by one: steered(lm, first, second)."
            )
        intervention.check(lm.d_model)
        by_site[intervention.site].append(intervention.to(lm.device))
    return Steering(lm, attached(lm.layout, {site: combine(group) for site, group in by_site.items()}))
