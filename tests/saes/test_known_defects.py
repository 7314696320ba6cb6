"""Defects of public trainers (reference, section 4) that no test here would have shown."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import saes
from saes import RunConfig, SAEConfig, TrainConfig
from saes.config import Activation
from saes.kernels import cpu
from saes.sae import SAE
from saes.step import step
from saes.training import Training
from tests.allocations import allocated
from tests.saes.killed import CONFIGS, STEPS, TOKENS, TRAINS, Stream
from tests.saes.test_run import fit, same

ROOT = Path(saes.__file__).parents[1]
SCALE, SHIFT = 40.0, 25.0
KINDS: dict[Activation, int | None] = {"topk": 3, "batch_topk": 3, "jumprelu": None, "relu": None}


class Far(Stream):
    """Activations far from the scale of training: biases and thresholds that are not folded show."""

    def __next__(self):
        return {site: SCALE * x + SHIFT for site, x in super().__next__().items()}


def stopped(folder, config, train):
    """What a call that stops after eight steps gives, and the checkpoints of steps 4 and 8."""
    run = RunConfig(folder, save_every_steps=4, stop_after_steps=8, keep=5)
    made = saes.fit(config, Far(), train, run=run)
    return made, [saes.load(folder / "checkpoints" / f"step-{step:012}" / "sae-0") for step in (4, 8)]


@pytest.mark.parametrize("kind", [*KINDS, "transcoder"])
def test_checkpoints_between_are_folded_too(tmp_path, kind):
    """SAELens' intermediate checkpoints were not (#381): each is the SAE that ``fit`` gives back at that moment."""
    config = (
        SAEConfig(8, 24, 3, site="a", site_out="b", skip=True, subtract_b_dec=False)
        if kind == "transcoder"
        else SAEConfig(8, 24, KINDS[kind], site="a", activation=kind)
    )
    train = TrainConfig(TOKENS * 12, TOKENS, lr=1e-2)
    made, (first, last) = stopped(tmp_path, config, train)
    assert made.config.input_scale < 0.1, "the scale is worth folding"
    assert same(made, last)
    short = saes.fit(config, Far(), train, run=RunConfig(tmp_path / "four", stop_after_steps=4))
    assert same(short, first)


def test_a_run_folder_may_be_moved(tmp_path):
    """sparsify looks for its checkpoints where the run's name says, wherever they were saved."""
    whole = saes.fit(CONFIGS, Stream(), TRAINS)
    fit(tmp_path / "here", CONFIGS, TRAINS, stop_after_steps=STEPS // 2)
    (tmp_path / "other").mkdir()
    (tmp_path / "here").rename(tmp_path / "other" / "there")
    parts = fit(tmp_path / "other" / "there", CONFIGS, TRAINS)
    assert all(map(same, whole, parts))
    assert not (tmp_path / "here").exists()


@pytest.mark.skipif(not cpu.available(), reason="the kernels in C are not to be had here")
@pytest.mark.parametrize("activation", ["topk", "batch_topk"])
def test_a_step_holds_no_row_for_each_active_latent(activation):
    """sparsify's encoder gradient makes a tensor of tokens x k x d_in."""
    tokens, d_in, d_sae, k = 256, 64, 256, 64
    made = Training(
        SAE(SAEConfig(d_in, d_sae, k, activation=activation)),
        TrainConfig(tokens * 10, tokens, auxk_weight=0.0, multi_topk_weight=0.0),
    )
    x = torch.randn(tokens, d_in, generator=torch.Generator().manual_seed(0))
    step(made, x, 1e-3)  # what lasts from step to step is there
    assert allocated(lambda: step(made, x, 1e-3)).peak < tokens * k * d_in * 4 / 2


def test_the_benchmark_needs_nothing_but_tensors():
    """It is carried to machines with a GPU, where torch, numpy, safetensors, einops and triton are all there is."""
    code = """
import runpy, sys
for name in ("jaxtyping", "sae_lens", "transformer_lens", "transformers", "pydantic", "typer", "rich", "jinja2"):
    sys.modules[name] = None
sys.argv = ["sae_step", "--shape", "32,128,4,64", "--rounds", "1", "--train-steps", "2", "--json"]
runpy.run_module("experiments.benchmarks.sae_step", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in ("floor", "ours_exact", "ours_fast", "dense"):
        assert 0 < found[f"{name}_ms"]["min"] <= found[f"{name}_ms"]["median"]
    assert found["saelens_ms"] is None
    assert {"rounds", "shape", "device", "versions"} <= found.keys()
