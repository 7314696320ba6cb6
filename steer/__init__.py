"""Steering language models with sparse autoencoders: models, interventions, evaluation, studies.

Public names are resolved on first use, so that ``import steer`` and ``steer --help`` start without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saes import SAE as SAE
    from saes import load as load_sae
    from steer.errors import SteerError
    from steer.evals.runner import Result, evaluate, rate
    from steer.evals.sample import Sample
    from steer.evals.sets import load_prompts
    from steer.evals.stats import Rate
    from steer.models.decode import Sampling
    from steer.models.load import load_model
    from steer.models.model import LanguageModel
    from steer.models.site import Site
    from steer.steering.directions import refusal_direction
    from steer.steering.interventions import AddDirection, Clamp
    from steer.steering.steered import Steering, steered

_WHERE = {
    "AddDirection": "steer.steering.interventions",
    "Clamp": "steer.steering.interventions",
    "LanguageModel": "steer.models.model",
    "Rate": "steer.evals.stats",
    "Result": "steer.evals.runner",
    "SAE": "saes.sae",
    "Sample": "steer.evals.sample",
    "Sampling": "steer.models.decode",
    "Site": "steer.models.site",
    "SteerError": "steer.errors",
    "Steering": "steer.steering.steered",
    "evaluate": "steer.evals.runner",
    "load_model": "steer.models.load",
    "load_prompts": "steer.evals.sets",
    "load_sae": "saes.native",
    "rate": "steer.evals.runner",
    "refusal_direction": "steer.steering.directions",
    "steered": "steer.steering.steered",
}

__all__ = [
    "SAE",
    "AddDirection",
    "Clamp",
    "LanguageModel",
    "Rate",
    "Result",
    "Sample",
    "Sampling",
    "Site",
    "SteerError",
    "Steering",
    "evaluate",
    "load_model",
    "load_prompts",
    "load_sae",
    "rate",
    "refusal_direction",
    "steered",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'steer' has no attribute {name!r}")
    module = import_module(_WHERE[name])
    return getattr(module, "load" if name == "load_sae" else name)


def __dir__() -> list[str]:
    return __all__
