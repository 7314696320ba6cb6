"""What installing the package adds to other packages: entry points that cost nothing and cannot fail."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from steer.evals.harness_plugin import MODEL, tell_lm_eval

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


class Registry(dict):
    def register(self, name, target):
        self[name] = target


@pytest.fixture
def lm_eval(monkeypatch):
    """The modules of lm-eval that the plugin looks at, as 0.4.13 has them."""
    registry = ModuleType("lm_eval.api.registry")
    registry.model_registry = Registry(hf="lm_eval.models.huggingface:HFLM")
    api = ModuleType("lm_eval.api")
    api.registry = registry
    for module in (ModuleType("lm_eval"), ModuleType("lm_eval.models"), api, registry):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return registry


def test_the_name_is_told_once_and_the_class_is_not_imported(lm_eval):
    tell_lm_eval()
    tell_lm_eval()
    assert lm_eval.model_registry == {"hf": "lm_eval.models.huggingface:HFLM", "steer": MODEL}


def test_an_lm_eval_that_reads_entry_points_is_left_alone(lm_eval):
    lm_eval.import_plugins = None
    tell_lm_eval()
    assert set(lm_eval.model_registry) == {"hf"}
    assert PROJECT["entry-points"]["lm_eval.models"]["steer"] == MODEL


def test_an_lm_eval_that_is_not_the_one_known_raises_nothing(lm_eval, monkeypatch):
    models = lm_eval.model_registry
    del lm_eval.model_registry
    tell_lm_eval()
    assert not hasattr(lm_eval, "model_registry")
    lm_eval.model_registry = models
    monkeypatch.setitem(sys.modules, "lm_eval.models", None)  # importing it fails
    tell_lm_eval()
    assert set(models) == {"hf"}


def test_what_torch_calls_imports_neither_torch_nor_lm_eval():
    (entry,) = PROJECT["entry-points"]["torch.backends"].values()
    module, name = entry.split(":")
    assert getattr(importlib.import_module(module), name) is tell_lm_eval
    code = f"import sys; from {module} import {name}; {name}(); print({{'torch', 'lm_eval'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
