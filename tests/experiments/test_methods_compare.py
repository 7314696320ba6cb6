"""The comparison of methods: every arm runs, and what it writes can be read."""

import json
from io import StringIO

import pytest
from rich.console import Console

import saes
from experiments.methods.arms import HARMFUL, STRENGTHS, as_wanted, scaled
from experiments.methods.compare import arguments, cell, compare, table
from steer.evals.runner import Result
from steer.evals.sample import Sample
from steer.evals.scoring import Outcome
from steer.evals.sets import SETS
from steer.methods.fitted import Fitted
from steer.steering.gates import Gate, Gated
from steer.steering.latents import Clamp
from steer.steering.scores import LatentScore
from tests.conftest import random_sae


def test_every_method_is_fitted_and_evaluated(tmp_path, embedded, monkeypatch):
    for method, strengths in STRENGTHS.items():
        monkeypatch.setitem(STRENGTHS, method, strengths[:2])
    saes.save(random_sae(embedded.d_model, 24, 4), tmp_path / "sae")
    given = ["--limit", "2", "--fit-limit", "20", "--dev-limit", "2", "--max-new-tokens", "8"]
    given += ["--sae", str(tmp_path / "sae")]
    results = compare(arguments(given), Console(quiet=True))
    assert json.loads(json.dumps(results)) == json.loads(json.dumps(results, allow_nan=False))
    methods = [row["method"] for row in results["methods"]]
    assert methods[:4] == ["unsteered", "system-prompt", "self-contrastive", "sae"]
    assert {"direction", "conditional", "null-space", "correlated-latents"} < set(methods)
    for row in results["methods"]:
        assert list(row["sets"]) == list(SETS)
        assert all(found["n"] == 2 for found in row["sets"].values())
        assert row["settings"]["responder"]
    choice = results["methods"][4]["fit"]["strength_choice"]
    assert choice["strength"] in [one["strength"] for one in choice["tried"]]
    console = Console(width=400, file=StringIO(), record=True)
    console.print(table(results))
    shown = console.export_text()
    assert all(set_.title in shown for set_ in SETS.values())
    assert all(row["name"] in shown for row in results["methods"])


def test_what_is_wanted_depends_on_the_set():
    for name in ("unsafe_unseen", "safe"):
        sample = Sample("a", name, ({"role": "user", "content": "?"},), "refusal")
        assert as_wanted(Result(sample, "No.", Outcome("refusal", True))) == (name in HARMFUL)
        assert as_wanted(Result(sample, "Yes.", Outcome("compliance", False))) == (name not in HARMFUL)


def test_strengths_are_scaled_within_gates_too():
    sae = random_sae()
    gated = Gated(Clamp(sae, {3: 2.0}), Gate(LatentScore(sae, [5]), 0.0))
    (found,) = scaled(Fitted((gated,)), 1.5).interventions
    assert found.intervention.latents == {3: 3.0}
    assert found.gate is gated.gate


def test_a_cell_shows_percent():
    assert cell({"rate": 0.5, "interval": (0.25, 0.754)}) == "50 (25-75)"
    with pytest.raises(SystemExit):
        arguments(["--nonsense"])
