"""Optimisers: what their steps are, what their state takes, and that they train."""

import dataclasses

import pytest
import torch

import saes
from saes.kernels import eager
from saes.losses import fvu
from saes.optimisers import OPTIMISERS, Update, adam, adam_bf16, signum
from saes.step import Training
from tests.saes.test_sae import CONFIG, TRAIN, planted


def update(number=1, lr=0.1, clip=1.0, seed=0, beta2=0.999):
    return Update(eager, lr, number, clip, seed, beta2)


def bytes_of(name):
    training = Training(saes.SAE(CONFIG), dataclasses.replace(TRAIN, optimiser=name))
    states = [tensor for state in training.moments.values() for tensor in state.values()]
    return sum(tensor.nbytes for tensor in states) / sum(p.numel() for p in training.sae.parameters())


def test_the_state_of_each_takes_the_memory_it_says():
    assert {name: bytes_of(name) for name in OPTIMISERS} == {"adam": 8, "adam_bf16": 4, "signum": 4}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_each_trains(name):
    train = dataclasses.replace(TRAIN, total_tokens=256 * 200, lr=5e-3, optimiser=name)
    sae = saes.fit(CONFIG, planted(), train)
    x = next(planted())
    assert fvu(x, sae(x)) < 0.2
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(64))
    again = saes.fit(CONFIG, planted(), train)
    assert torch.equal(sae.W_enc, again.W_enc), "the same seed gives the same weights"


def test_bfloat16_averages_stay_near_those_of_float32():
    """They change by a thousandth of themselves a step, which rounding to the nearest would lose."""
    generator = torch.Generator().manual_seed(0)
    p = torch.zeros(200, 50)
    half, full = adam_bf16.state(p), adam.state(p)
    assert half["square"].dtype == torch.bfloat16
    q = p.clone()
    for number in range(1, 1500):
        scale = 3.0 if number < 400 else 0.1  # the mean of squares must also come down again
        grad = scale * torch.randn(p.shape, generator=generator)
        adam_bf16.update_(p, grad, half, update(number, lr=1e-3), project=False)
        adam.update_(q, grad, full, update(number, lr=1e-3), project=False)
    ratio = half["square"].float().mean() / full["square"].mean()
    assert ratio == pytest.approx(1, abs=0.01)
    assert torch.nn.functional.cosine_similarity(p.flatten(), q.flatten(), dim=0) > 0.995


def test_rounding_at_random_is_right_on_average_and_leaves_what_needs_none():
    noise = torch.randint(-(2**31), 2**31, (200_000,), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    x = torch.full((200_000,), 1 + 1 / 1024)  # an eighth of the way between two bfloat16
    for bits in (noise, noise >> 16):
        found = adam_bf16.rounded(x, bits)
        assert found.unique().tolist() == [1, 1 + 1 / 128]
        assert found.float().mean() == pytest.approx(1 + 1 / 1024, abs=2e-5)
        assert adam_bf16.rounded(-x, bits).float().mean() == pytest.approx(-1 - 1 / 1024, abs=2e-5)
    exact = torch.randn(1000).bfloat16().float()
    assert torch.equal(adam_bf16.rounded(exact, noise[:1000]).float(), exact)


def test_large_weights_are_taken_in_parts(monkeypatch):
    p = torch.nn.functional.normalize(torch.randn(37, 8), dim=-1)
    grad, whole = torch.randn(37, 8), p.clone()
    one, parts = adam_bf16.state(p), adam_bf16.state(p)
    adam_bf16.update_(whole, grad, one, update(), project=True)
    monkeypatch.setattr(adam_bf16, "CHUNK_ELEMENTS", 40)
    adam_bf16.update_(p, grad, parts, update(), project=True)
    torch.testing.assert_close(p, whole)
    torch.testing.assert_close(p.norm(dim=-1), torch.ones(37))


def test_signum_steps_along_signs_and_rests_where_nothing_is_learnt():
    p = torch.nn.functional.normalize(torch.randn(6, 4), dim=-1)
    grad = torch.randn(6, 4)
    grad[2] = 0
    state, before = signum.state(p), p.clone()
    signum.update_(p, grad, state, update(lr=0.01, clip=0.5), project=False)
    torch.testing.assert_close(p, before - 0.01 * grad.sign())
    torch.testing.assert_close(state["mean"], 0.1 * 0.5 * grad)
    rested, mean = p[1].clone(), state["mean"][1].clone()
    grad[1] = 0
    signum.update_(p, grad, state, update(2, lr=0.01), project=False)
    assert torch.equal(p[1], rested)
    assert torch.equal(state["mean"][1], mean)
    signum.update_(p, grad, state, update(3, lr=0.01), project=True)
    torch.testing.assert_close(p.norm(dim=-1), torch.ones(6))
    bias, bias_state = torch.zeros(3), signum.state(torch.zeros(3))
    signum.update_(bias, torch.tensor([1.0, 0.0, -2.0]), bias_state, update(lr=0.01), project=False)
    assert bias.tolist() == pytest.approx([-0.01, 0, 0.01])


def test_without_a_learning_rate_each_has_its_own():
    records = []
    for name in OPTIMISERS:
        train = dataclasses.replace(TRAIN, total_tokens=256, lr=None, warmup_frac=0, decay_frac=0, optimiser=name)
        saes.fit(CONFIG, planted(), train, records.append)
    assert [record.lr for record in records] == pytest.approx([8 * 2e-4 * 16, 8 * 2e-4 * 16, signum.LR * 16])
