"""How lm-evaluation-harness's own command comes to know the model ``steer`` (``steer.evals.harness``).

Its releases after 0.4.13 read the entry points ``lm_eval.models``, where ``pyproject.toml`` names the class. 0.4.13
reads none. But it imports torch before it looks a model up, and torch calls the entry points ``torch.backends`` when it
is imported: ours tells lm-eval 0.4.13 the name, in a process of lm-eval alone, and does nothing in any other.
"""

import sys
from importlib import import_module

MODEL = "steer.evals.harness:SteerLM"


def tell_lm_eval() -> None:
    """Put ``steer`` into the registry of models of the lm-eval that is running, unless it finds names by itself.

    Only a name is registered: the class is imported when somebody asks for it. Nothing is raised, since an error here
    would be one of ``import torch``.
    """
    if "lm_eval" not in sys.modules:
        return
    try:
        import_module("lm_eval.models")  # its own names, which lm-eval puts in only while there are none
        registry = import_module("lm_eval.api.registry")
    except ImportError:
        return
    models = getattr(registry, "model_registry", None)
    if models is None or "steer" in models or hasattr(registry, "import_plugins"):  # which reads entry points
        return
    models.register("steer", target=MODEL)
