"""What a run writes of itself, where the platform or the figures are out of the ordinary."""

import dataclasses
import json
import sys

import torch

import saes
from saes import TrainRecord
from steer.activations.splice import SpliceLoss
from steer.evals.sets import load_prompts
from steer.progress import Silent
from steer.studies.record import RunRecord
from tests.conftest import random_sae

TRAINING = [TrainRecord(tokens=1, loss=1.0, fvu=0.5, l0=2.0, dead_fraction=0.0, seconds=0.1)]
QUALITY = dataclasses.replace(saes.measure(random_sae(), [torch.eye(10, 32)])[0], fvu=float("inf"))

LOSS = SpliceLoss(plain=1.0, spliced=1.5, zeroed=1.0, meaned=1.0, kl=0.5, kl_zeroed=0.5)


def begun(folder, llama):
    job = RunRecord(folder, Silent())
    job.start({"seed": 0, "threads": None}, llama, load_prompts("safe", limit=1))
    return job


def recorded(folder):
    return json.loads((folder / "results.json").read_text())


def test_the_number_of_threads_is_recorded(tmp_path, llama):
    begun(tmp_path, llama)
    assert recorded(tmp_path)["settings"]["threads"] == torch.get_num_threads()


def test_memory_is_left_out_where_the_platform_does_not_tell(tmp_path, llama, monkeypatch):
    """Windows has no module ``resource``."""
    monkeypatch.setitem(sys.modules, "resource", None)
    begun(tmp_path, llama)
    assert recorded(tmp_path)["peak_memory_mib"] is None


def test_a_measure_that_is_not_finite_is_null(tmp_path, llama, sae):
    begun(tmp_path, llama).sae(sae, 0, TRAINING, QUALITY, LOSS)
    found = recorded(tmp_path)["sae"]
    assert found["fvu"] is None
    assert found["loss_recovered"] is None
    assert found["loss_spliced"] == 1.5
