"""Optimisers: what their steps are, what their state takes, and that they train."""

import dataclasses
from types import ModuleType

import pytest
import torch

import saes
from saes import SAE, SAEConfig, TrainConfig
from saes.fitting import Fitting
from saes.kernels import cpu, eager, eager_adam
from saes.losses import fvu
from saes.optimisers import OPTIMISERS, Update, adam, adam_8bit, adam_bf16, signum
from saes.step import Training
from saes.training import weights
from tests.saes.test_sae import CONFIG, TRAIN, planted


def update(number=1, lr=0.1, clip=1.0, seed=0, beta2=0.999):
    return Update(eager, lr, number, clip, seed, beta2)


def bytes_of(name, config=CONFIG):
    training = Training(saes.SAE(config), dataclasses.replace(TRAIN, optimiser=name))
    states = [tensor for state in training.moments.values() for tensor in state.values()]
    return sum(tensor.nbytes for tensor in states) / sum(p.numel() for p in training.sae.parameters())


def test_the_state_of_each_takes_the_memory_it_says():
    assert {name: bytes_of(name) for name in OPTIMISERS if name != "adam_8bit"} == {
        "adam": 8,
        "adam_bf16": 4,
        "signum": 4,
    }
    assert bytes_of("adam_8bit", saes.SAEConfig(512, 1024, 4)) == pytest.approx(2 + 2 * 4 / 256, rel=0.01)


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
        found = eager_adam.rounded(x, bits)
        assert found.unique().tolist() == [1, 1 + 1 / 128]
        assert found.float().mean() == pytest.approx(1 + 1 / 1024, abs=2e-5)
        assert eager_adam.rounded(-x, bits).float().mean() == pytest.approx(-1 - 1 / 1024, abs=2e-5)
    exact = torch.randn(1000).bfloat16().float()
    assert torch.equal(eager_adam.rounded(exact, noise[:1000]).float(), exact)


@pytest.mark.parametrize("optimiser", [adam_bf16, adam_8bit])
def test_large_weights_are_taken_in_parts(monkeypatch, optimiser):
    p = torch.nn.functional.normalize(torch.randn(37, 8), dim=-1)
    grad, whole = torch.randn(37, 8), p.clone()
    one, parts = optimiser.state(p), optimiser.state(p)
    optimiser.update_(whole, grad, one, update(), project=True)
    monkeypatch.setattr(eager_adam, "ROUNDED_AT_ONCE", 40)
    optimiser.update_(p, grad, parts, update(), project=True)
    assert torch.equal(p, whole)
    assert all(torch.equal(one[name], parts[name]) for name in one)
    torch.testing.assert_close(p.norm(dim=-1), torch.ones(37))


def test_averages_of_8_bits_stay_near_those_of_float32():
    """Rows of unlike sizes, columns of unlike sizes within a block, and a mean of squares that comes down again."""
    generator = torch.Generator().manual_seed(0)
    p = torch.zeros(20, 300)
    few, full = adam_8bit.state(p), adam.state(p)
    assert (few["mean"].dtype, few["square"].dtype) == (torch.int8, torch.uint8)
    assert few["mean_scale"].shape == (20, 2)
    q, sizes = p.clone(), torch.logspace(-3, 0, 20).unsqueeze(1) * torch.logspace(-1, 0, 300)
    for number in range(1, 900):
        grad = (3.0 if number < 250 else 0.1) * sizes * torch.randn(p.shape, generator=generator)
        adam_8bit.update_(p, grad, few, update(number, lr=1e-3), project=False)
        adam.update_(q, grad, full, update(number, lr=1e-3), project=False)
    square = few["square"].float().div(255).pow(4) * few["square_scale"].repeat_interleave(256, 1)[:, :300]
    ratio = square / full["square"]
    assert ratio.mean() == pytest.approx(1, abs=0.02)
    assert ratio.std() < 0.35
    assert torch.nn.functional.cosine_similarity(p.flatten(), q.flatten(), dim=0) > 0.98


def test_8_bits_lose_no_small_square_and_take_rows_without_gradients():
    p, grad = torch.zeros(3, 300), torch.zeros(3, 300)
    state = adam_8bit.state(p)
    grad[0, 0], grad[0, 1:] = 1.0, 1e-4  # squares 10^8 times as large as others beside them
    grad[1] = 1e-22  # whose squares float32 does not know
    for number in range(1, 4):
        adam_8bit.update_(p, grad, state, update(number, lr=1e-3), project=False)
    assert p.isfinite().all()
    assert (
        p[0].abs().max() < 8e-3
    )  # three steps of 1e-3, twice as long at most; with squares of zero they would be of 1
    assert (p[0] < 0).all()
    assert (p[2] == 0).all()


@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("optimiser", [adam_bf16, adam_8bit])
@pytest.mark.skipif(not cpu.available(), reason="no C compiler here")
def test_kernels_round_as_the_eager_ones(optimiser, project):
    """The same random numbers, so nearly all codes are equal; where float32 rounds otherwise, the next one is taken."""
    generator = torch.Generator().manual_seed(4)
    p = torch.nn.functional.normalize(torch.randn(50, 300, generator=generator), dim=-1)
    q, one, other = p.clone(), optimiser.state(p), optimiser.state(p)
    for number in range(1, 6):
        grad = torch.randn(p.shape, generator=generator)
        grad[:, 7] = 0
        for weight, state, kernels in ((p, one, cpu), (q, other, eager)):
            optimiser.update_(weight, grad, state, Update(kernels, 0.01, number, 0.5, 9, 0.999), project)
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
        for name in one:
            differ = one[name] != other[name]
            if "scale" in name:
                torch.testing.assert_close(one[name], other[name])
                continue
            assert differ.float().mean() < 5e-3
            if one[name].dtype == torch.bfloat16:
                torch.testing.assert_close(one[name], other[name], rtol=2**-7, atol=1e-6)
            else:
                assert (one[name].int() - other[name].int()).abs().max() <= 1
            other[name].copy_(one[name])  # else they drift apart
        q.copy_(p)


def test_kernels_for_triton_round_with_their_own_adam():
    """As ``saes.kernels.triton`` hands it on."""
    calls = []

    def counted(*given):
        calls.append(given)
        eager.adam_(*given)

    p, step = torch.ones(4, 8), eager.AdamStep(0.1, 0.9, 0.999, 1e-8, 1)
    state = adam_bf16.state(p)
    eager.adam_bf16_(p, torch.ones(4, 8), state["mean"], state["square"], step, 5, adam_=counted)
    assert len(calls) == 1
    torch.testing.assert_close(p, torch.full((4, 8), 0.9))


def test_the_curve_of_fewer_bits_is_that_of_float32():
    names, records = ("adam", "adam_bf16", "adam_8bit"), []
    train = dataclasses.replace(TRAIN, total_tokens=256 * 150, lr=5e-3)
    trains = [dataclasses.replace(train, optimiser=name) for name in names]
    saes.fit([CONFIG] * 3, planted(), trains, records.append)
    full, half, few = (torch.tensor([one.fvu for one in records if one.sae == number]) for number in range(3))
    assert len(full) > 4
    assert full[-1] < 0.2
    for curve in (half, few):
        torch.testing.assert_close(curve, full, rtol=0.05, atol=0.002)


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
    assert [record.lr for record in records] == pytest.approx([8 * 2e-4 * 16] * 3 + [signum.LR * 16])


def test_rounding_draws_other_numbers_for_each_weight_step_and_seed():
    keys = {
        dataclasses.replace(update(number, seed=seed), weight=name).key
        for number in (1, 2)
        for seed in (0, 1)
        for name in ("W_enc", "W_dec")
    }
    assert len(keys) == 8
    assert dataclasses.replace(update(), weight="W_enc").key == dataclasses.replace(update(), weight="W_enc").key


def test_weights_of_one_shape_are_rounded_with_other_noise():
    """As W_enc and W_dec are: with one noise for both their averages would be off in the same places."""
    made = Training(SAE(SAEConfig(8, 32, 4)), TrainConfig(640, 64, optimiser="adam_bf16"))
    seen = {}

    def spied(p, grad, m, v, told, key, project=False):
        seen[p.data_ptr()] = key

    kernels = ModuleType("kernels")
    kernels.adam_bf16_ = spied
    for name, weight in weights(made.sae).items():
        told = dataclasses.replace(update(), kernels=kernels, weight=name)
        OPTIMISERS["adam_bf16"].update_(weight, torch.zeros_like(weight), made.moments[name], told, project=False)
    assert len(set(seen.values())) == len(seen) == 4


@pytest.mark.parametrize(
    ("activation", "asked", "beta2"), [("topk", None, 0.95), ("relu", None, 0.999), ("relu", 0.9, 0.9)]
)
def test_beta2_is_by_the_activation_where_none_is_given(activation, asked, beta2):
    config = SAEConfig(8, 32, 4 if activation == "topk" else None, activation=activation)
    train = TrainConfig(640, 64, adam_beta2=asked)
    assert Training(SAE(config), train).beta2 == beta2
    assert Fitting(config, train).train.adam_beta2 == beta2, "the run's settings have the number"
