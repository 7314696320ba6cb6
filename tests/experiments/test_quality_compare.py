"""The comparison with SAELens: every arm with every seed, on the same batches."""

import pytest
import torch
from rich.console import Console

import saes
from experiments.quality.compare import Arm, Setup, arguments, compare, table, train_ours, train_saelens
from tests.conftest import tiny_model

pytest.importorskip("sae_lens", reason="sae-lens is not installed")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    lm = tiny_model("llama")
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    text = folder / "text.txt"
    text.write_text("\n\n".join(f"A text of its own, number {number}." for number in range(120)))
    given = ["--model", str(folder), "--text", str(text), "--d-sae", "64", "--k", "4", "--tokens", "2048"]
    given += ["--batch-tokens", "256", "--held-out-tokens", "500", "--seeds", "2", "--lr", "0.003"]
    return compare(arguments(given), Console(quiet=True))


def test_every_arm_is_measured_with_every_seed(results):
    assert len(results["runs"]) == 2 * len(results["arms"]) == 8
    assert results["held_out_tokens"] == 500
    assert {arm["system"] for arm in results["arms"]} == {"ours", "SAELens"}
    for arm in results["arms"]:
        low, high = arm["fvu_range"]
        assert low <= arm["fvu"] <= high
        assert arm["fvu_sd"] > 0
        assert arm["l0"] <= 4
    assert table(results).row_count == 4


def test_both_learn_from_the_same_batches():
    directions = torch.nn.functional.normalize(torch.randn(24, 16), dim=-1)
    batches = [torch.relu(torch.randn(256, 24) - 1.5) @ directions for _ in range(60)]
    setup = Setup(16, 48, 6, 60 * 256, 256, seed=0)
    before = [batch.clone() for batch in batches]
    for train, system in ((train_ours, "ours"), (train_saelens, "SAELens")):
        sae = train(Arm(system, 3e-3), setup, batches)
        quality, _ = saes.measure(sae, batches)
        assert quality.fvu < 0.5
        assert quality.l0 <= 6
    assert all(torch.equal(one, other) for one, other in zip(before, batches, strict=True))
