"""The benchmark of the training step runs, and its contenders do not disturb each other."""

import json
import time

import pytest
import torch

from experiments.benchmarks import gpu_checks, kernel_checks, sae_kinds, steering
from experiments.benchmarks.contenders import copied, dense, ours
from experiments.benchmarks.planted import planted_batches, recalls, train
from experiments.benchmarks.sae_step import compare, growth
from saes.config import SAEConfig
from saes.kernels import eager

SHAPE = (16, 128, 4, 64)
CPU = torch.device("cpu")


def test_every_contender_is_timed():
    found = compare(SHAPE, CPU, rounds=2, train_steps=3)
    for name in ("floor", "ours_exact", "ours_proven", "ours_fast", "saelens", "dense"):
        assert 0 < found[f"{name}_ms"]["min"] <= found[f"{name}_ms"]["median"]
    assert found["notes"] == []
    assert found["recall"]["planted"]["exact"] == 1
    assert [size["batch"] for size in growth(SHAPE, CPU, 1)] == [16, 32, 64, 64, 64]


def test_every_kind_and_optimiser_is_timed():
    found = sae_kinds.compare(SHAPE, rounds=2, warm_steps=1, only=[], clock=time.process_time)
    assert {"topk", "batch_topk", "matryoshka topk", "jumprelu", "relu", "topk, adam_8bit"} <= found.keys()
    assert all(0 < one["min_ms"] <= one["median_ms"] for one in found.values())
    few = sae_kinds.compare(SHAPE, rounds=1, warm_steps=1, only=["topk"], clock=time.perf_counter)
    assert few.keys() == {"floor, latents in rows", "floor, latents in columns", "topk"}


def test_contenders_start_from_one_sae_and_leave_it_alone():
    stream = planted_batches(64, 16, CPU)
    trained = train(SAEConfig(16, 128, 4), stream, 20)
    dead, x = torch.arange(3), next(stream)
    before = {name: p.clone() for name, p in trained.sae.named_parameters()}
    for run in (dense(trained, dead), ours(trained, dead, "exact")):
        for _ in range(3):
            run(x)
    assert all(torch.equal(p, before[name]) for name, p in trained.sae.named_parameters()), "each works on a copy"
    again = copied(trained, trained.config)
    assert torch.equal(again.sae.W_enc, trained.sae.W_enc)
    assert recalls(trained, x)["proven"] == 1


def test_what_is_to_be_measured_on_a_gpu_runs_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["gpu_checks", "--tiny", "--device", "cpu", "--rounds", "1", "--train-steps", "2",
                                     "--out", str(tmp_path / "gpu.json")])  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        gpu_checks.main()
    assert ended.value.code == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["checks"]["failed"] == []
    names = {one["name"].split(",")[0] for one in found["checks"]["outputs"]}
    assert {"topk", "encode_topk fast", "reconstruct", "weight_grads", "adam_ with projection", "step"} <= names
    assert found["waits"]["refused"] is None
    assert found["ring"]["tokens_per_second"] > 0
    assert sum(name.startswith("step ") for name in found) == 2


def test_a_wrong_kernel_is_seen(monkeypatch):
    monkeypatch.setenv("SAES_KERNELS", "eager")
    right = eager.reconstruct

    def wrong(*given):
        made = right(*given)
        return eager.Reconstruction(made.g, made.grads * 1.001, made.squares)

    monkeypatch.setattr(eager, "reconstruct", wrong)
    bad = [one.name for one in kernel_checks.checks(CPU, gpu_checks.TINY_SIZES[0]) if not one.good]
    assert "reconstruct, grads, float32" in bad
    assert not any("topk" in name for name in bad)


def test_memory_of_the_large_shape_fits_a_gpu():
    assert [round(gpu_checks.planned_gib(shape)["together"]) for shape in gpu_checks.SHAPES] == [14, 86]


def test_every_way_of_generating_is_timed_and_gives_replies_of_one_length(embedded):
    lm = steering.endless(embedded)
    case = steering.Case(rows=2, prompt=5, new=4, d_sae=64, sweeps=(1, 2))
    runs = steering.contenders(lm, case)
    assert {"plain", "clamp", "per_row", "separate 2", "together 2", "selfcd", "bridge"} <= runs.keys()
    assert runs["plain"]()[:, 5:].tolist() == runs["ours_unsteered"]()
    assert [len(reply) for reply in runs["clamp"]()] == [4, 4]
    assert len(runs["together 2"]()) == 16
    found = steering.measure(lm, case, rounds=1)
    assert all(found[f"{name}_ratio"] > 0 for name in ("clamp", "per_row", "bridge", "selfcd", "sweep8"))
