"""A plan made ready for a model: everything is checked before anything is attached."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saes import SAE
from steer.errors import PlanError, SiteError
from steer.models.chat import Conversation, Message, as_conversations, instructed
from steer.models.classifier import load_classifier
from steer.models.decode import Sampling
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.plans.build import Material, intervention, sae_names
from steer.plans.conditions import ClassifierGate
from steer.plans.edits import EditSpec
from steer.plans.sources import Note, SaeSpec
from steer.steering.collisions import check_set_once
from steer.steering.intervention import Intervention
from steer.steering.steered import gate_in, mismatches
from steer.steering.text_gate import Classifier

Classifiers = Mapping[str, Classifier]


@dataclass(frozen=True)
class Bound:
    """A plan that fits a model."""

    interventions: tuple[Intervention, ...]
    """For ``steered(lm, *interventions)``."""
    system: str | None
    """The plan's system prompt."""
    sampling: Sampling | None
    """How replies are generated; None: the plan does not say."""
    digest: str
    """Of the plan."""
    fitted_on: frozenset[str] = frozenset()
    """Digests of the prompts that it was fitted or chosen on, as far as the plan says."""

    def conversations(self, prompts: Sequence[str | Conversation]) -> list[list[Message]]:
        """Prompts with the plan's system prompt before them; one that a conversation has already follows it.

        Raises:
            DataError: a prompt is malformed.
        """
        found = as_conversations(prompts)
        return found if self.system is None else [instructed(one, self.system) for one in found]


def used_saes(
    edits: Sequence[EditSpec], specs: Mapping[str, SaeSpec], given: Mapping[str, SAE], folder: Path, note: Note
) -> dict[str, SAE]:
    """The SAEs that edits and their gates use, given or loaded, each the one that the plan was made with.

    Raises:
        PlanError: one is another, or a name is given that the plan does not have.
        CheckpointError: one is not to be had.
        SaesError: its files cannot be read.
    """
    if strange := [name for name in given if name not in specs]:
        raise PlanError(f"The plan has no SAE of the name {strange[0]!r}: it has {', '.join(specs) or 'none'}.")
    used = dict.fromkeys(name for edit in edits for name in sae_names(edit))
    loaded = {name: given[name] if name in given else specs[name].load(folder, note) for name in used}
    for name, sae in loaded.items():
        specs[name].check(name, sae, note)
    return loaded


def fitted(edits: Sequence[EditSpec], material: Material, lm: LanguageModel, note: Note) -> tuple[Intervention, ...]:
    """The interventions that edits mean, once they are seen to fit a model and each other.

    Raises:
        PlanError: one does not, or the model lacks a site.
    """
    made: list[Intervention] = []
    for number, edit in enumerate(edits):
        try:
            made.append(intervention(edit, material))
            _check_fits(made[-1], lm)
        except (PlanError, SiteError) as error:
            raise PlanError(f"edits.{number}: {error}") from error
    by_site: dict[Site, list[Intervention]] = defaultdict(list)
    for one in made:
        by_site[one.site].append(one)
    for group in by_site.values():
        check_set_once(group)
    for remark in mismatches(lm, *made):
        note(remark)
    return tuple(made)


def _check_fits(made: Intervention, lm: LanguageModel) -> None:
    made.check(lm.d_model)
    gated = gate_in(made)
    for site in [made.site, *(gated.gate_sites if gated else [])]:
        lm.layout.module(site)


def classifier_of(gate: ClassifierGate, classifiers: Classifiers, folder: Path, note: Note) -> Classifier:
    """The function given for a gate's classifier, or else the model of that name; paths start from ``folder``.

    Raises:
        PlanError: there is neither.
    """
    if gate.classifier in classifiers:
        return classifiers[gate.classifier]
    beside = folder / gate.classifier
    return load_classifier(str(beside) if beside.is_dir() else gate.classifier, gate.label, note)
