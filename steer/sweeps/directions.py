"""Directions of a study: the difference in means of two sets of prompts, or a vector from a file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from steer.errors import PlanError
from steer.evals.sample import Sample
from steer.files import is_file
from steer.models.model import LanguageModel
from steer.plans.digests import of_tensors
from steer.steering.directions import refusal_direction
from steer.sweeps.config import DIFFERENCE, StudyConfig
from steer.sweeps.digests import of_samples
from steer.sweeps.tasks import prompts_of


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction of the residual stream, and what tells it apart."""

    vector: Float[Tensor, " d_model"]
    source: dict[str, Any]


@dataclass
class Directions:
    """The directions that the arms of a study ask for; each is found once."""

    study: StudyConfig
    lm: LanguageModel
    _found: dict[tuple[str, str], Direction] = field(default_factory=dict)
    _prompts: tuple[list[Sample], list[Sample]] | None = None

    def get(self, name: str, site: str) -> Direction:
        """``difference`` at a site, or the vector of a file.

        Raises:
            PlanError: the file holds no single vector.
            DataError: the prompts to compare are not to be had.
            SiteError: the model lacks the site.
        """
        key = (name, site if name == DIFFERENCE else "")
        if key not in self._found:
            self._found[key] = self._difference(site) if name == DIFFERENCE else read_direction(Path(name))
        return self._found[key]

    @property
    def prompts(self) -> tuple[list[Sample], list[Sample]]:
        """Harmful and harmless prompts."""
        if self._prompts is None:
            self._prompts = prompts_of(self.study.harmful), prompts_of(self.study.harmless)
        return self._prompts

    def _difference(self, site: str) -> Direction:
        harmful, harmless = self.prompts
        vector = refusal_direction(self.lm, site, [one.messages for one in harmful], [one.messages for one in harmless])
        # told apart by where it comes from: its last bits depend on the machine
        source = {"difference": [of_samples(harmful), of_samples(harmless)], "at": site}
        return Direction(vector, source)


def read_direction(path: Path) -> Direction:
    """The one vector of a safetensors file.

    Raises:
        PlanError: the file is missing, no safetensors, or holds something else than one vector.
    """
    if not is_file(path):
        raise PlanError(f"No direction at {path}: give {DIFFERENCE!r} or a safetensors file that holds one vector.")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise PlanError(f"{path} cannot be read as safetensors ({error}).") from error
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if len(tensors) != 1 or len(next(iter(shapes.values()))) != 1:
        raise PlanError(f"{path} must hold one vector of shape [d_model], got {shapes}.")
    vector = next(iter(tensors.values())).float()
    return Direction(vector, {"vector": of_tensors({"direction": vector})})
