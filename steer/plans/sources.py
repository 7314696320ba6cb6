"""The model and the SAEs that a plan is for."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from saes import SAE
from steer.checkpoints.load import load_sae
from steer.checkpoints.source import parse_source
from steer.errors import PlanError
from steer.models.model import LanguageModel
from steer.plans import digests
from steer.plans.part import Name, Number, Part, SiteName, Whole

Note = Callable[[str], None]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ModelSpec(Part):
    """The model that a plan is for. What is absent is not checked."""

    name: Name | None = None
    """``embedded``, a hub id, or a folder."""
    revision: Name | None = None
    """Commit, branch or tag on the hub."""
    architecture: Name | None = None
    """The ``model_type`` of its config, such as ``llama``; not compared, since ``config_digest`` has it."""
    d_model: Whole | None = None
    """Width of the residual stream, in dimensions."""
    n_layers: Whole | None = None
    """Number of decoder layers."""
    config_digest: Digest | None = None
    """Of the fields of its config that decide its shape."""
    weights_digest: Digest | None = None
    """Of its weights."""

    @classmethod
    def of(cls, lm: LanguageModel, weights: bool = False) -> "ModelSpec":
        """A model as a plan names it; with ``weights`` (all of which are then read) no other weights will do."""
        return cls(
            name=lm.name,
            architecture=getattr(getattr(lm.model, "config", None), "model_type", None),
            d_model=lm.d_model,
            n_layers=lm.n_layers,
            config_digest=digests.of_config(lm),
            weights_digest=digests.of_weights(lm) if weights else None,
        )

    def check(self, lm: LanguageModel, note: Note) -> None:
        """Compare with a model.

        Raises:
            PlanError: it is another one.
        """
        found: dict[str, Callable[[], Any]] = {
            "d_model": lambda: lm.d_model,
            "n_layers": lambda: lm.n_layers,
            "config_digest": lambda: digests.of_config(lm),
            "weights_digest": lambda: digests.of_weights(lm),
        }
        for name, of in found.items():
            wanted = getattr(self, name)
            if wanted is not None and (got := of()) != wanted:
                raise PlanError(
                    f"The plan is for another model: {name} of {self.name or 'its model'} is {wanted}, that of "
                    f"{lm.name} is {got}. Use the model that the plan names."
                )
        if self.name is not None and self.name != lm.name:
            note(f"the plan is for the model {self.name!r}, and is used on {lm.name!r}.")


class SaeSpec(Part):
    """An SAE that a plan uses."""

    source: Name
    """A path (relative to the plan's file), ``hub:owner/name/folder@revision``, or ``saelens:release/id``."""
    site: SiteName | None = None
    """Where it reads and acts; absent: where its files say that it was trained."""
    digest: Digest | None = None
    """Of its weights and of what decides what it computes; absent: any SAE at the source will do."""
    format: Name | None = None
    """Of its files, if they are not recognised."""
    k: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Latents active on a token, if its files do not say it."""
    input_scale: Number | None = None
    """Factor of the activations in training, if its files do not say it."""

    @classmethod
    def of(cls, sae: SAE, source: str, site: str | None = None) -> "SaeSpec":
        """An SAE that is to be had at ``source``, as a plan names it."""
        return cls(source=source, site=site, digest=digests.of_sae(sae))

    def load(self, folder: Path, note: Note) -> SAE:
        """The SAE; paths start from ``folder``.

        Raises:
            CheckpointError: it is not to be had.
            SaesError: its files cannot be read.
        """
        place = parse_source(self.source)
        source = folder / place if isinstance(place, Path) else self.source
        return load_sae(source, format=self.format, k=self.k, input_scale=self.input_scale, note=note)

    def check(self, name: str, sae: SAE, note: Note) -> None:
        """Compare with an SAE.

        Raises:
            PlanError: it is another one.
        """
        if self.digest is None:
            note(f"the plan has no digest of the SAE {name!r}, so any SAE at {self.source} will do.")
        elif (got := digests.of_sae(sae)) != self.digest:
            raise PlanError(
                f"The SAE {name!r} at {self.source} is not the one that the plan was made with: its digest is {got}, "
                f"expected {self.digest}. Use that SAE, or make the plan anew."
            )
