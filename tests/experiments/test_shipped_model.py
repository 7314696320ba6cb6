"""The model that ships keeps to the table of targets, and its card tells the figures that are measured now."""

import re

import pytest

from experiments.embedded_model.card import TARGETS, missed
from experiments.embedded_model.measure import measure
from steer.evals.runner import rate
from steer.evals.sets import load_prompts
from steer.models.load import embedded_folder, load_model


@pytest.fixture(scope="module")
def results():
    return measure(load_model("embedded"), load_prompts(split="test"))


def test_every_target_is_met_on_at_least_200_test_prompts(results):
    assert missed(results) == []
    assert all(len(results[name]) >= 200 for name in TARGETS)


def test_the_card_tells_these_figures(results):
    told = dict(re.findall(r"^\| (.+?) \| \d+ \| \w+ \| ([\d.]+) % \|", _card(), re.MULTILINE))
    assert set(told) == set(TARGETS)
    for name, percent in told.items():
        # other processors round otherwise, which may turn single replies
        assert float(percent) == pytest.approx(100 * rate(results[name]).rate, abs=3), name


def _card():
    return (embedded_folder() / "README.md").read_text(encoding="utf-8")
