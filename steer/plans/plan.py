"""A steering plan: the model, SAEs and vectors it is for, its edits, prompt and sampling."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from saes import SAE
from steer.digest import of_json
from steer.errors import PlanError
from steer.models.decode import Sampling
from steer.models.model import LanguageModel
from steer.plans import digests
from steer.plans.bind import Bound, Classifiers, classifier_of, fitted, used_saes
from steer.plans.build import Material, check_names, vector_edit
from steer.plans.conditions import ClassifierGate
from steer.plans.edits import EditSpec, LatentEditSpec
from steer.plans.part import Flag, Name, Number, Part, Text, Whole
from steer.plans.sources import ModelSpec, SaeSpec
from steer.steering.latents import check_sae
from steer.steering.steered import check_language_model
from steer.steering.text_gate import Classifier

UNDECIDING = ("label", "source", "licence", "fitted_on")
"""Fields that are not part of the digest."""


class SamplingSpec(Part):
    """How replies are generated: the fields of ``Sampling``."""

    max_new_tokens: Whole = Sampling.max_new_tokens
    temperature: Number = Sampling.temperature
    top_p: Number = Sampling.top_p
    seed: Whole = Sampling.seed
    use_cache: Flag = Sampling.use_cache
    stop: tuple[Name, ...] = Sampling.stop

    @model_validator(mode="after")
    def _can_be(self) -> "SamplingSpec":
        self.sampling()
        return self

    def sampling(self) -> Sampling:
        """The sampling."""
        return Sampling(**self.model_dump())


class SteeringPlan(Part):
    """What is done to a model, as data. ``read_plan`` and ``write_plan`` are its files; ``bind`` makes it ready.

    Everything that can be checked without a model is checked when it is made: unknown keys, numbers that are not
    finite, windows that hold no token, names of SAEs and vectors that it lacks.

    Raises:
        PlanError: something of this is wrong.
    """

    version: Literal[1] = 1
    """Of the format."""
    label: Text | None = None
    """What it is, for people; not part of the digest, as the next three."""
    source: Text | None = None
    """Where it comes from: a paper, a command, an address."""
    licence: Text | None = None
    """Under what licence it may be used."""
    fitted_on: tuple[Name, ...] = ()
    """Digests of the prompts that it was fitted or chosen on (``steer.digest.of_prompt``): an evaluation that asks
    one of them says so."""
    model: ModelSpec = ModelSpec()
    """The model it is for."""
    saes: dict[Name, SaeSpec] = Field(default_factory=dict)
    """SAEs by the names that edits and gates use."""
    system: Name | None = None
    """A system prompt."""
    sampling: SamplingSpec | None = None
    """How replies are generated; absent: as who runs it says."""
    edits: tuple[EditSpec, ...] = ()
    """What is done, in order; all edits of a site read the same activations, so there the order does not matter."""
    vectors: Annotated[dict[Name, Tensor], Field(exclude=True, repr=False)] = Field(default_factory=dict)
    """Directions and weights of probes by name, [d_model] or [latents], and matrices [d_model, d_model], float32; in a
    file of their own."""
    folder: Annotated[Path, Field(exclude=True, repr=False)] = Path()
    """What relative paths of SAEs start from: the folder of the file that it was read from."""

    @field_validator("vectors")
    @classmethod
    def _are_vectors(cls, vectors: dict[str, Tensor]) -> dict[str, Tensor]:
        for name, vector in vectors.items():
            if not _is_vector(vector) or not vector.is_floating_point() or not vector.isfinite().all():
                raise PlanError(
                    f"The vector {name!r} must be finite floats of shape [width], or a square matrix of them, got "
                    f"{vector.dtype} of shape {list(vector.shape)}"
                    f"{', or a value that is not finite' if _is_vector(vector) else ''}."
                )
        whole = torch.contiguous_format  # of a transposed matrix too, as files have it
        return {
            name: vector.detach().to("cpu", torch.float32).clone(memory_format=whole)
            for name, vector in vectors.items()
        }

    @model_validator(mode="after")
    def _complete(self) -> "SteeringPlan":
        for number, edit in enumerate(self.edits):
            try:
                check_names(edit, self.saes, self.vectors)
                if not isinstance(edit, LatentEditSpec):
                    vector_edit(edit, self.vectors)
            except ValueError as error:
                raise PlanError(f"edits.{number}: {error}") from None
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides what it does: neither ``UNDECIDING`` nor the order of keys."""
        return of_json([self.data(UNDECIDING), digests.of_tensors(self.vectors)])

    def data(self, without: tuple[str, ...] = ()) -> dict[str, Any]:
        """As JSON data, without vectors. What is at its default is left out, so that new fields change no digest."""
        return {"version": self.version, **self.model_dump(mode="json", exclude_defaults=True, exclude=set(without))}

    def bind(
        self,
        lm: LanguageModel,
        note: Callable[[str], None] | None = None,
        saes: Mapping[str, SAE] | None = None,
        classifiers: Classifiers | None = None,
    ) -> Bound:
        """Check the plan against a model, load its SAEs, and make its interventions. The model is left as it is.

        ``note`` is told what is odd or not checked. ``saes`` are given instead of loaded, by name; ``classifiers`` are
        functions for gates on texts, by name.

        Raises:
            PlanError: the plan is for another model (width, layers, digest) or SAE (digest), a site or a classifier is
                missing, an edit does not fit.
            ModelError: ``lm`` is a bare model.
            CheckpointError: an SAE is not to be had.
            SaesError: its files cannot be read.
        """
        check_language_model(lm)
        for sae in (saes or {}).values():
            check_sae(sae)
        tell = note or (lambda _: None)
        self.model.check(lm, tell)
        loaded = used_saes(self.edits, self.saes, saes or {}, self.folder, tell)
        functions = classifiers or {}

        def classifier(gate: ClassifierGate) -> Classifier:
            return classifier_of(gate, functions, self.folder, tell)

        material = Material(loaded, self.saes, self.vectors, classifier)
        made = fitted(self.edits, material, lm, tell)
        return Bound(
            made,
            self.system,
            None if self.sampling is None else self.sampling.sampling(),
            self.digest,
            frozenset(self.fitted_on),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SteeringPlan):
            return NotImplemented
        same = all(getattr(self, name) == getattr(other, name) for name in UNDECIDING)
        return same and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def _is_vector(vector: Tensor) -> bool:
    """Whether it has one axis, or is a square matrix."""
    return vector.ndim == 1 or (vector.ndim == 2 and vector.shape[0] == vector.shape[1])
