"""The benchmark of the training step runs, and its contenders do not disturb each other."""

import torch

from experiments.benchmarks.contenders import copied, dense, ours
from experiments.benchmarks.planted import planted_batches, recalls, train
from experiments.benchmarks.sae_step import compare, growth
from saes.config import SAEConfig

SHAPE = (16, 128, 4, 64)
CPU = torch.device("cpu")


def test_every_contender_is_timed():
    found = compare(SHAPE, CPU, rounds=2, train_steps=3)
    for name in ("floor", "ours_exact", "ours_proven", "ours_fast", "saelens", "dense"):
        assert 0 < found[f"{name}_ms"]["min"] <= found[f"{name}_ms"]["median"]
    assert found["notes"] == []
    assert found["recall"]["planted"]["exact"] == 1
    assert [size["batch"] for size in growth(SHAPE, CPU, 1)] == [16, 32, 64, 64, 64]


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
