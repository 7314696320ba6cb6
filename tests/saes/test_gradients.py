"""The gradients of every kind of SAE against autograd, in float64, on the losses as the papers write them."""

import dataclasses

import pytest
import torch

from saes.config import SAEConfig, TrainConfig
from saes.gradients import gradients
from saes.gradients.sparse import MULTI
from saes.jumprelu import active, jumprelu
from saes.losses import auxk, fvu
from saes.sae import SAE
from saes.select import batch_topk, topk
from saes.step import step
from saes.training import Training, weights

D_IN, D_OUT, D_SAE, K, TOKENS = 24, 18, 160, 6, 64
TOPK = SAEConfig(D_IN, D_SAE, K)
BATCH = dataclasses.replace(TOPK, activation="batch_topk")
JUMP = dataclasses.replace(TOPK, activation="jumprelu", k=None)
RELU = dataclasses.replace(TOPK, activation="relu", k=None)
NESTED = {"prefixes": (20, 70, D_SAE)}
CODER = {"subtract_b_dec": False, "site_out": "1.mlp_out", "d_out": D_OUT}

KINDS = {
    "topk": TOPK,
    "topk, input as it is": dataclasses.replace(TOPK, subtract_b_dec=False),
    "batch_topk": BATCH,
    "matryoshka topk": dataclasses.replace(TOPK, **NESTED),
    "matryoshka batch_topk": dataclasses.replace(BATCH, **NESTED),
    "transcoder": dataclasses.replace(TOPK, **CODER),
    "skip transcoder": dataclasses.replace(TOPK, **CODER, skip=True),
    "skip matryoshka transcoder": dataclasses.replace(BATCH, **CODER, **NESTED, skip=True),
    "jumprelu": JUMP,
    "jumprelu transcoder": dataclasses.replace(JUMP, **CODER, **NESTED, skip=True),
    "relu": RELU,
    "matryoshka relu": dataclasses.replace(RELU, **NESTED),
}


def made(config, bias=0.0, **train):
    """An SAE of random weights in training, a third of its latents dead."""
    training = Training(SAE(config), TrainConfig(6400, TOKENS, dead_after_tokens=100, **train))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in weights(training.sae).items():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
            if name == "W_dec":
                weight /= weight.norm(dim=-1, keepdim=True)
        training.sae.b_enc += bias
        if config.activation == "jumprelu":
            training.sae.threshold.copy_(torch.rand(D_SAE, generator=generator))
    training.silent_tokens[::3] = 10_000
    return training


def batch(config):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(TOKENS, D_IN, generator=generator) * 2 + 1
    y = x if config.site_out is None else torch.randn(TOKENS, config.width_out, generator=generator) + 0.5
    return x, y


def chosen(pre, config, k):
    """The dense latents of topk and batch_topk, by sorting everything."""
    if config.activation == "topk":
        values, indices = pre.topk(k)
        return torch.zeros_like(pre).scatter(-1, indices, values)
    return torch.where(pre >= pre.flatten().sort(descending=True).values[k * len(pre) - 1], pre, 0.0)


def by_hand(training, x, y):
    """All losses, and the gradients of autograd, in float64."""
    sae, train = training.sae.config, training.config
    w = {name: weight.detach().double().requires_grad_() for name, weight in weights(training.sae).items()}
    x, y = x.double(), y.double()
    pre = torch.relu((x - w["b_dec"] if sae.subtract_b_dec else x) @ w["W_enc"].T + w["b_enc"])

    def out(latents, width=D_SAE):
        made = latents[:, :width] @ w["W_dec"][:width] + w["b_dec"]
        return made + x @ w["W_skip"] if sae.skip else made

    if sae.activation == "jumprelu":
        latents = jumprelu(pre, w["threshold"], train.jumprelu_bandwidth)
        penalty = train.l0_weight * active(pre, w["threshold"], train.jumprelu_bandwidth).sum(-1).mean()
    elif sae.activation == "relu":
        latents, penalty = pre, train.l1_weight * pre.sum(-1).mean() / D_IN**0.5
    else:
        latents, penalty = chosen(pre, sae, training.k), 0.0
    loss = sum(fvu(y, out(latents, width)) for width in sae.prefixes or (D_SAE,)) + training.sparsity * penalty
    if train.multi_topk_weight:
        loss = loss + train.multi_topk_weight * fvu(y, out(chosen(pre, sae, MULTI * training.k)))
    if train.auxk_weight:
        loss = loss + train.auxk_weight * auxk(y - out(latents), pre, training.dead, w["W_dec"], D_IN // 2)
    return loss.item(), (latents > 0), dict(zip(w, torch.autograd.grad(loss, list(w.values())), strict=True))


def assert_equal_to_autograd(training, x, y):
    loss, on, wanted = by_hand(training, x, y)
    with torch.no_grad():
        found = gradients(training, x, y)
    assert found.facts.loss == pytest.approx(loss, rel=1e-5)
    assert found.facts.l0 == pytest.approx(on.sum().item() / TOKENS)
    assert torch.equal(found.fired, on.any(0))
    assert found.of.keys() == wanted.keys()
    for name, grad in wanted.items():
        torch.testing.assert_close(found.of[name].double(), grad, rtol=1e-4, atol=2e-6)
    radial = (wanted["W_dec"] * training.sae.W_dec.double()).sum(-1)
    torch.testing.assert_close(found.radial.double(), radial.detach(), rtol=1e-4, atol=2e-6)
    assert all(grad.abs().max() > 0 for grad in wanted.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("auxk_weight", [0.0, 0.5])
def test_gradients_equal_those_of_autograd(kind, auxk_weight):
    training = made(KINDS[kind], auxk_weight=auxk_weight, l0_weight=0.1, l1_weight=0.3)
    assert_equal_to_autograd(training, *batch(KINDS[kind]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].k])
@pytest.mark.parametrize("bias", [0.0, -5.0])
def test_gradients_with_multi_topk_and_with_fewer_than_k_positive_latents(kind, bias):
    training = made(KINDS[kind], bias, multi_topk_weight=1 / 8)
    x, y = batch(KINDS[kind])
    positive = (training.sae.pre_activations(x) > 0).sum(-1)
    assert (positive < K).any() == (bias < 0)
    assert_equal_to_autograd(training, x, y)


@pytest.mark.parametrize("kind", ["topk", "batch_topk"])
def test_multi_topk_alone_reaches_the_encoder(kind):
    """sparsify's fused encoder gives the encoder no gradient from Multi-TopK."""
    plain, multi = made(KINDS[kind], auxk_weight=0.0), made(KINDS[kind], auxk_weight=0.0, multi_topk_weight=1 / 8)
    with torch.no_grad():
        first, second = (gradients(one, *batch(TOPK)) for one in (plain, multi))
    assert not first.fired.all()
    silent = ~first.fired
    assert first.of["W_enc"][silent].abs().max() == 0
    assert second.of["W_enc"][silent].abs().max() > 1e-4


def test_jumprelu_learns_its_thresholds_as_the_paper_says():
    """arXiv 2407.14435, section 4: kernel density estimates in place of the steps' derivatives."""
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(50, 7, generator=generator, dtype=torch.float64).requires_grad_()
    theta = torch.rand(7, generator=generator, dtype=torch.float64).requires_grad_()
    upstream = torch.randn(50, 7, generator=generator, dtype=torch.float64)
    width = 0.3
    near = (((z - theta) / width).abs() < 0.5).double()
    assert 0 < near.sum() < near.numel()

    on_z, on_theta = torch.autograd.grad((jumprelu(z, theta, width) * upstream).sum(), [z, theta])
    torch.testing.assert_close(on_z, upstream * (z > theta))
    torch.testing.assert_close(on_theta, (-(theta / width) * near * upstream).sum(0))
    (on_theta,) = torch.autograd.grad((active(z, theta, width) * upstream).sum(), [theta])
    torch.testing.assert_close(on_theta, (-1 / width * near * upstream).sum(0))
    assert torch.equal(jumprelu(z, theta, width), torch.where(z > theta, z, 0.0))


@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("k", [1, 6, 160])
def test_batch_topk_takes_the_largest_of_the_whole_batch(k, density):
    """Also where one token has all of them, and where there are fewer than asked for."""
    generator = torch.Generator().manual_seed(k)
    pre = torch.randn(TOKENS, D_SAE, generator=generator).relu() * (
        torch.rand(TOKENS, 1, generator=generator) < density
    )
    pre[3] *= 50
    (indices, values), least = batch_topk(pre, k)
    dense = torch.zeros_like(pre).scatter(-1, indices, values)
    edge = pre.flatten().sort(descending=True).values[k * TOKENS - 1]
    assert torch.equal(dense, torch.where(pre >= edge, pre, 0.0))
    assert least == (dense[dense > 0].min() if (dense > 0).any() else torch.inf)
    assert all(len(set(row)) == indices.shape[1] for row in indices.tolist())


def test_batch_topk_of_nothing_and_of_nan():
    (_, values), least = batch_topk(torch.zeros(5, 8), 2)
    assert least == torch.inf
    assert not values.any()
    pre = torch.rand(5, 8)
    pre[2, 3] = float("nan")
    assert batch_topk(pre, 2)[0][1].isnan().any()
    indices, values = topk(pre[:2], 2)
    assert torch.equal(pre[:2].gather(-1, indices), values)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_every_kind_lowers_the_loss_and_keeps_the_decoder_at_norm_1(kind):
    training = made(KINDS[kind])
    x, y = batch(KINDS[kind])
    losses = [step(training, x, 3e-3, y).loss for _ in range(12)]
    assert losses[-1] < losses[0]
    torch.testing.assert_close(training.sae.W_dec.norm(dim=-1), torch.ones(D_SAE), rtol=1e-6, atol=1e-6)
    assert training.steps_done == 12
    if KINDS[kind].activation == "jumprelu":
        assert (training.sae.threshold >= 0).all()


@pytest.mark.parametrize("kind", ["topk", "relu", "jumprelu"])
def test_the_encoders_product_in_bfloat16_changes_little(kind):
    x, y = batch(KINDS[kind])
    with torch.no_grad():
        full, half = (gradients(made(KINDS[kind], compute_dtype=dtype), x, y) for dtype in ("float32", "bfloat16"))
    assert half.facts.loss == pytest.approx(full.facts.loss, rel=0.02)
    assert half.facts.loss != full.facts.loss
    assert half.of["W_dec"].dtype == torch.float32


def test_the_threshold_of_batch_topk_is_the_mean_of_the_least_values_kept():
    training = made(BATCH)
    generator = torch.Generator().manual_seed(9)
    total = weight = 0.0
    for _ in range(5):
        x = torch.randn(TOKENS, D_IN, generator=generator)
        with torch.no_grad():
            least = gradients(training, x, x).least.item()
        step(training, x, 1e-3)
        total, weight = 0.99 * total + least, 0.99 * weight + 1
        assert training.sae.threshold.item() == pytest.approx(total / weight)
    assert training.sae.threshold.dtype == torch.float32
    assert training.sae.encode(x).active().mean().item() == pytest.approx(K, rel=0.2)
