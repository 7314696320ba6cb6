"""The Ray engine: the same cells as here, from two workers of which one is killed."""

import importlib.util
import os
import signal
import sys

import pytest

from steer.errors import MissingExtra
from steer.sweeps.engines import Local
from steer.sweeps.sweep import run_sweep
from tests.steer.sweep_data import contents, make_adapter, make_study_folder, study_of

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")


HALVING = {"first": 0.5, "least": 2}  # workers are kept from round to round


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine with two CPUs; its workers import from this checkout."""
    import ray

    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": paths})
    yield
    ray.shutdown()


@needs_ray
@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_measure_what_this_process_does(cluster, tmp_path):
    from steer.sweeps.ray_engine import Ray

    folder = make_study_folder(tmp_path)
    contrast = {"self_contrastive": {"safety": "Be safe."}, "strengths": [1.5, 3.0]}
    arms = [{"latents": [3]}, {"direction": "difference"}, contrast, {"adapter": str(make_adapter(folder))}]
    study = study_of(folder, arm=arms, halving=HALVING)
    here = run_sweep(study, tmp_path / "here", Local(1), threads=1)
    engine, killed = Ray(workers=2), []

    def kill(*_):
        if not killed:  # the first cell is there, and the worker that made it is at its next job
            killed.append(engine.processes[0])
            os.kill(killed[0], signal.SIGKILL)

    there = run_sweep(study, tmp_path / "there", engine, threads=1, on_cell=kill)
    assert engine.lost == 1
    assert len(set(engine.processes)) >= 2
    assert os.getpid() not in engine.processes
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    assert there["points"] == here["points"]


STUDY = 'strengths = [1]\ntasks = ["safe"]\n[[arm]]\ndirection = "difference"\nsite = "1.resid_post"\n'


@needs_ray
def test_a_cluster_that_does_not_answer_is_said_at_once(tmp_path, capsys):
    from steer.cli.app import run

    (tmp_path / "study.toml").write_text(STUDY)
    asked = ["--engine", "ray", "--address", "127.0.0.1:1", "--out", str(tmp_path / "out")]
    assert run(["sweep", str(tmp_path / "study.toml"), *asked]) == 2
    assert "No Ray cluster answers at 127.0.0.1:1" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_without_ray_the_command_says_what_to_install(tmp_path, monkeypatch, capsys):
    from steer.cli.app import run

    monkeypatch.setitem(sys.modules, "ray", None)
    study = tmp_path / "study.toml"
    study.write_text(STUDY)
    assert run(["sweep", str(study), "--engine", "ray", "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'saesteer[ray]'" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
    from steer.sweeps.ray_engine import Ray

    with pytest.raises(MissingExtra):
        Ray()
