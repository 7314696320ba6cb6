"""What the library does has a public name."""

import subprocess
import sys

import pytest

import steer
import steer.errors
from steer.features import candidates
from steer.studies import demo, prepare, search, trained


def test_every_error_can_be_caught_by_its_public_name():
    errors = {name for name, value in vars(steer.errors).items() if isinstance(value, type)}
    assert errors <= set(steer.__all__)
    assert all(getattr(steer, name) is getattr(steer.errors, name) for name in errors)


def test_the_steps_of_the_demo_have_public_names():
    steps = {
        demo: ["DemoConfig", "run_demo", "load_model", "splice_loss", "evaluate", "steered", "write_report"],
        prepare: ["read_texts", "embedded_corpus", "load_prompts", "refuse_archetype"],
        trained: ["activation_batches", "activation_rows", "latents_active"],
        search: ["Trial", "measure_candidates", "best_strengths", "settle_strength", "refusal_direction", "rate"],
    }
    for module, names in steps.items():
        assert all(getattr(steer, name) is getattr(module, name) for name in names)
    assert steer.measure_candidates is candidates.measure_candidates


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'steering_wheel'"):
        steer.steering_wheel  # noqa: B018


def test_errors_can_be_imported_without_torch():
    code = "import sys, steer; steer.DataError; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
