"""The plan on paper is that of the code, and the page shows what it prints."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.scaling.plan import Plan, exchanged, layouts, memory, planned, table
from saes import SAE, SAEConfig, TrainConfig
from saes.step import step
from saes.training import Training

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


def nbytes(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("optimiser", ["adam", "adam_bf16", "adam_8bit", "signum"])
def test_memory_is_what_training_holds(optimiser):
    plan = Plan(32, 4096, 4, 64, 1, 1, optimiser)
    # multi-top-k needs all pre-activations on one process, as every loss does where latents are divided
    train = TrainConfig(64, 64, optimiser=optimiser, multi_topk_weight=1 / 8)
    training = Training(SAE(SAEConfig(32, 4096, 4)), train)
    step(training, torch.randn(64, 32), 1e-3)
    held = memory(plan)
    assert held["weights"] == nbytes(*training.sae.state_dict().values())
    assert held["moments"] == nbytes(*(one for kept in training.moments.values() for one in kept.values()))
    assert held["gradients"] == pytest.approx(nbytes(training.buffer), rel=0.01)
    assert held["silent tokens"] == nbytes(training.silent_tokens)
    assert held["pre-activations"] == nbytes(training.memory["pre"]) * 1.5  # and the product in bfloat16 for a moment


def test_shards_divide_the_memory_and_only_shared_batches_sum_gradients():
    whole, half = Plan(gpus=1, latent_shards=1), Plan(gpus=2, latent_shards=2)
    for name in ("weights", "moments", "gradients", "pre-activations"):
        assert memory(half)[name] == pytest.approx(memory(whole)[name] / 2, rel=1e-3)
    assert sum(exchanged(whole).values()) == 0
    assert exchanged(half)["gradients, summed"] == 0
    shared = replace(half, latent_shards=1)
    assert exchanged(shared) == pytest.approx(
        dict.fromkeys(exchanged(whole), 0.0) | {"gradients, summed": memory(whole)["gradients"]}
    )


def test_the_arithmetic_of_the_page():
    """By hand, for the first row."""
    made = planned(Plan())
    assert made["bytes"]["weights"] == pytest.approx(2 * 262_144 * 4096 * 4, rel=1e-3)
    assert made["bytes"]["pre-activations"] == 8192 * 262_144 * 6
    assert made["sent_bytes"]["reconstruction, summed"] == 2 * 63 / 64 * 8192 * 4096 * 4
    assert made["seconds"]["encoder product"] == 2 * 8192 * 4096 * 262_144 / 500e12
    assert made["step_seconds"] == pytest.approx(sum(made["seconds"].values()))
    assert made["fits"]


def test_the_page_shows_what_the_script_prints():
    assert table(layouts(Plan())) in PAGE.read_text(encoding="utf-8")
