"""What a session works with: the model, the SAE, an index of its latents perhaps. None of it changes while it runs."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from saes import SAE
from steer.activations.identity import tokenizer_digest, weights_digest
from steer.errors import DataError
from steer.explore.kept_files import KeptFiles, sha256
from steer.index.read import FeatureIndex
from steer.index.render import Renderer
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.plans.bind import classifier_of, fitted
from steer.plans.build import Material, sae_names
from steer.plans.conditions import ClassifierGate
from steer.plans.digests import of_config, of_sae
from steer.plans.plan import SteeringPlan
from steer.plans.sources import SaeSpec
from steer.search.meaning import Embedder
from steer.steering.intervention import Intervention
from steer.steering.latents import check_latents, check_sae, check_width, site_of
from steer.steering.text_gate import Classifier


@dataclass(eq=False)
class Bench:
    """A model, an SAE of it and an index of its latents.

    Raises:
        PlanError: the SAE does not fit the model, cannot be edited, or does not say where it reads.
        SiteError: the model lacks the site.
        DataError: the index is of another site.
    """

    lm: LanguageModel
    sae: SAE
    source: str
    """Where the SAE is to be had: a path, ``hub:...`` or ``saelens:...``."""
    where: Site | None = None
    """Where the SAE reads; None: where it was trained."""
    index: FeatureIndex | None = None
    embedder: Embedder | None = None
    """For labels by meaning."""
    embedder_source: str | None = None
    """The folder that it was loaded from."""
    watch: Callable[[str], None] | None = None
    """Told of a reply as far as it goes, after each token."""
    files: KeptFiles = field(default_factory=KeptFiles)
    notes: list[str] = field(default_factory=list)
    """What is odd about the plan that was bound last."""
    site: Site = field(init=False)
    """Where the SAE reads and is edited."""
    _bound: tuple[str, tuple[Intervention, ...]] | None = None
    _saes: dict[str, SAE] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_sae(self.sae)
        self.site = site_of(self.sae, self.where)
        check_width(self.sae, self.lm.d_model)
        self.lm.layout.module(self.site)
        self.sae = self.sae.on(self.lm.device)
        built_at = None if self.index is None else self.index.provenance.get("sae", {}).get("site")
        if built_at is not None and Site.parse(built_at) != self.site:
            raise DataError(
                f"The index is of latents that read {built_at}, but here they read {self.site}. Give an index built "
                "there (steer index build --site), or none."
            )

    @cached_property
    def sae_digest(self) -> str:
        """Of the SAE, as plans tell SAEs apart. Reads all of its weights, once."""
        return of_sae(self.sae)

    @cached_property
    def sae_here(self) -> SAE:
        """The SAE as one that was trained at ``site``, for searches, which go by what an SAE says of itself."""
        here = copy.copy(self.sae)  # the same weights
        here.config = replace(self.sae.config, site=str(self.site))
        return here

    @cached_property
    def sae_spec(self) -> SaeSpec:
        """The SAE as a plan names it."""
        return SaeSpec(source=self.source, site=str(self.site), digest=self.sae_digest)

    @cached_property
    def renderer(self) -> Renderer:
        """Token ids as text: of several tokens together, since a character may lie in several."""
        return Renderer.of(self.lm.tokenizer)

    @cached_property
    def identity(self) -> dict[str, dict[str, Any] | None]:
        """What results depend on, as digests; names and places are for people, and are not compared."""
        dtype = str(next(self.lm.model.parameters()).dtype).removeprefix("torch.")
        model = {
            "name": absolute(self.lm.name),
            "dtype": dtype,
            "config": of_config(self.lm),
            "weights": weights_digest(self.lm),
            "tokenizer": tokenizer_digest(self.lm),
        }
        sae = {"source": self.source, "site": str(self.site), "digest": self.sae_digest}
        embedder = None if self.embedder_source is None else {"folder": self.embedder_source}
        index = None if self.index is None else _of_index(self.index)
        return {"model": model, "sae": sae, "index": index, "embedder": embedder}

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Figures of the index by name, each [d_sae]; none without an index."""
        return {} if self.index is None else self.index.columns

    def latent(self, text: str) -> int:
        """A latent by its number.

        Raises:
            DataError: it is no number.
            PlanError: the SAE has no such latent.
        """
        if not (text.isascii() and text.isdigit()) or len(text) > 12:
            raise DataError(f"A latent is a whole number, got {text!r}.")
        return check_latents([int(text)], self.sae.config.d_sae)[0]

    def label(self, latent: int) -> str:
        """The first label of a latent in the index; empty where there is none."""
        labels = [] if self.index is None else self.index.labels(latent)
        return labels[0].text if labels else ""

    def bind(self, plan: SteeringPlan) -> tuple[Intervention, ...]:
        """The interventions of a plan, as ``SteeringPlan.bind`` makes them; the session's own SAE is not read again.

        Raises:
            PlanError: an edit does not fit the model, or two set the same.
            CheckpointError, SaesError: another SAE of the plan is not to be had.
        """
        if self._bound is None or self._bound[0] != plan.digest:
            self.notes.clear()
            names = dict.fromkeys(name for edit in plan.edits for name in sae_names(edit))
            saes = {name: self._sae(name, plan) for name in names}

            def classifier(gate: ClassifierGate) -> Classifier:
                return classifier_of(gate, {}, plan.folder, self.notes.append)

            material = Material(saes, plan.saes, plan.vectors, classifier)
            self._bound = plan.digest, fitted(plan.edits, material, self.lm, self.notes.append)
        return self._bound[1]

    def _sae(self, name: str, plan: SteeringPlan) -> SAE:
        """The SAE of a plan, the session's own where it is that."""
        spec = plan.saes[name]
        if spec.digest == self.sae_digest:
            return self.sae
        key = spec.digest or spec.source
        if key not in self._saes:
            loaded = spec.load(plan.folder, self.notes.append)
            spec.check(name, loaded, self.notes.append)
            self._saes[key] = loaded
        return self._saes[key]


def check_identity(stored: Mapping[str, Any], bench: Bench, where: str) -> None:
    """Compare what a recipe was made with, and what is at hand.

    Raises:
        DataError: it was another model, tokenizer, SAE, site or index.
    """
    for kind in ("model", "sae", "index"):
        old, new = stored.get(kind), bench.identity[kind]
        if old is None:
            continue
        if new is None:
            raise DataError(f"{where} was made with the index {old.get('folder')}. Give it: --index DIR.")
        for name, value in new.items():
            if name not in ("name", "source", "folder") and old.get(name) != value:
                raise DataError(
                    f"{where} was made with another {kind}: its {name} is {old.get(name)}, here it is {value}. Use the "
                    f"{kind} that it names: {old.get('name') or old.get('source') or old.get('folder')}."
                )


def _of_index(index: FeatureIndex) -> dict[str, Any]:
    """An index by what never changes in it; labels, notes and added columns may."""
    files = "".join(f"{name} {file.sha256}\n" for name, file in sorted(index.info.files.items()))
    return {"folder": absolute(str(index.folder)), "files": sha256(files.encode())}


def absolute(name: str) -> str:
    """A folder by its whole path, so that it is found from elsewhere; any other name as it is."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.is_dir() else name
