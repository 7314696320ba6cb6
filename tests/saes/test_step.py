"""The training step against autograd on the losses as they are written down, weight by weight."""

import pytest
import torch

from saes.config import SAEConfig, TrainConfig
from saes.errors import ConfigError, ShapeError
from saes.losses import auxk, fvu
from saes.optimisers.adam import BETA1, EPS
from saes.sae import SAE
from saes.step import Training, step

CONFIG = SAEConfig(d_in=24, d_sae=160, k=6)


def training(auxk_weight=1 / 32, grad_clip=1.0, seed=0, **more):
    config = TrainConfig(6400, 64, auxk_weight=auxk_weight, grad_clip=grad_clip, dead_after_tokens=100, **more)
    made = Training(SAE(CONFIG, seed=seed), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        made.sae.W_enc.add_(0.05 * torch.randn(24, 160, generator=generator))
        made.sae.b_enc.copy_(0.1 * torch.randn(160, generator=generator))
        made.sae.b_dec.copy_(0.1 * torch.randn(24, generator=generator))
    return made


def by_autograd(sae, dead, x, config, steps=1, lr=1e-2):
    """The same steps with torch's Adam on a float64 copy."""
    weights = {name: p.detach().double().requires_grad_() for name, p in sae.named_parameters()}
    optimiser = torch.optim.Adam(weights.values(), lr=lr, betas=(BETA1, config.adam_beta2), eps=EPS)
    W_enc, W_dec, b_enc, b_dec = (weights[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec"))
    losses = []
    for _ in range(steps):
        pre = torch.relu((x.double() - b_dec) @ W_enc + b_enc)
        values, indices = pre.topk(CONFIG.k)
        x_hat = torch.zeros_like(pre).scatter(-1, indices, values) @ W_dec + b_dec
        loss = fvu(x.double(), x_hat) + config.auxk_weight * auxk(
            x.double() - x_hat, pre, dead, W_dec, CONFIG.d_in // 2
        )
        optimiser.zero_grad()
        loss.backward()
        with torch.no_grad():
            W_dec.grad -= (W_dec.grad * W_dec).sum(-1, keepdim=True) * W_dec
        torch.nn.utils.clip_grad_norm_(list(weights.values()), config.grad_clip)
        optimiser.step()
        with torch.no_grad():
            W_dec /= W_dec.norm(dim=-1, keepdim=True)
        losses.append(loss.item())
    return weights, losses


@pytest.mark.parametrize("auxk_weight", [0.0, 1 / 32])
@pytest.mark.parametrize(("grad_clip", "adam_beta2"), [(1e-3, 0.95), (1e3, 0.95), (1e3, 0.999)])
def test_steps_equal_those_of_autograd(auxk_weight, grad_clip, adam_beta2):
    made = training(auxk_weight, grad_clip, adam_beta2=adam_beta2)
    made.silent_tokens[::3] = 10_000
    dead = made.dead
    x = torch.randn(64, 24, generator=torch.Generator().manual_seed(5)) * 2 + 1
    wanted, losses = by_autograd(made.sae, dead, x, made.config, steps=4)
    found = []
    for _ in range(4):
        made.silent_tokens = torch.where(dead, 10_000, 0)  # the same latents stay dead
        found.append(step(made, x, 1e-2).loss)
    assert found == pytest.approx(losses, rel=1e-5)
    for name, p in made.sae.named_parameters():
        torch.testing.assert_close(p.detach().double(), wanted[name].detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dead", [5, 60])
def test_auxk_equals_that_of_autograd(dead):
    """With fewer dead latents than may be active, and with more."""
    made = training()
    made.silent_tokens[:dead] = 10_000
    x = torch.randn(64, 24, generator=torch.Generator().manual_seed(5)) * 2 + 1
    wanted, losses = by_autograd(made.sae, made.dead, x, made.config)
    assert step(made, x, 1e-2).loss == pytest.approx(losses[0], rel=1e-5)
    for name, p in made.sae.named_parameters():
        torch.testing.assert_close(p.detach().double(), wanted[name].detach(), rtol=1e-5, atol=1e-5)


def losses_with(selection, steps=120):
    """Losses of a short training run on directions that are there to be found."""
    generator = torch.Generator().manual_seed(7)
    directions = torch.nn.functional.normalize(torch.randn(100, 24, generator=generator), dim=-1)
    made = Training(SAE(CONFIG), TrainConfig(6400, 256, dead_after_tokens=5000, selection=selection))
    found = []
    for _ in range(steps):
        active = torch.rand(256, 100, generator=generator) < 0.04
        found.append(step(made, (active * torch.rand(256, 100, generator=generator)) @ directions * 5, 2e-3).loss)
    return torch.tensor(found)


@pytest.mark.parametrize("selection", ["proven", "fast"])
def test_selection_by_way_of_bfloat16_leaves_the_loss_as_it_is(selection):
    wanted = losses_with("exact")
    assert wanted[-1] < 0.5 * wanted[0], "it learns"
    torch.testing.assert_close(losses_with(selection), wanted, rtol=2e-2, atol=0)


def test_an_unknown_selection_is_refused():
    config = TrainConfig(6400, 64)
    object.__setattr__(config, "selection", "approximate")  # past the type checks of these tests
    with pytest.raises(ConfigError, match="selection must be one of exact, proven, fast, got 'approximate'"):
        config.__post_init__()


def test_auxk_alone_reaches_the_encoder_and_not_the_living():
    """sparsify's fused encoder gives the encoder no gradient from AuxK."""
    with_aux, without = training(1.0), training(0.0)
    x = torch.randn(64, 24, generator=torch.Generator().manual_seed(5))
    for one in (with_aux, without):
        one.silent_tokens[::3] = 10_000
        step(one, x, 1e-2)
    dead = torch.zeros(160, dtype=torch.bool)
    dead[::3] = True
    moved = (with_aux.sae.W_enc - without.sae.W_enc).abs().amax(0)
    assert moved[dead].max() > 1e-3
    first = {name: with_aux.moments[name]["mean"] for name in ("W_enc", "W_dec")}
    assert all(grad[dead].abs().amax() > 0 for grad in first.values())


def test_decoder_rows_have_norm_1_after_every_step():
    made = training()
    for seed in range(5):
        step(made, torch.randn(64, 24, generator=torch.Generator().manual_seed(seed)), 3e-2)
        torch.testing.assert_close(made.sae.W_dec.norm(dim=-1), torch.ones(160), rtol=1e-6, atol=1e-6)


def test_latents_die_by_tokens_and_not_by_steps():
    def dead(batch_tokens):
        made = training()
        x = torch.randn(256, 24, generator=torch.Generator().manual_seed(1))
        for batch in x.split(batch_tokens):
            step(made, batch, 0.0)
        return made.dead

    assert torch.equal(dead(32), dead(64))
    assert 0 < dead(32).sum() < 160


@pytest.mark.parametrize("where", ["b_dec", "b_enc", "W_dec"])
def test_a_loss_that_is_not_finite_changes_nothing(where):
    made = training()
    with torch.no_grad():
        getattr(made.sae, where)[3] = float("nan")
        if where == "W_dec":
            made.sae.b_enc[3] = 50.0  # so that the latent is active
    before = {name: p.clone() for name, p in made.sae.named_parameters()}
    facts = step(made, torch.randn(64, 24), 1e-2)
    assert not facts.loss < float("inf")
    assert made.steps_done == 0
    for name, p in made.sae.named_parameters():
        assert torch.equal(p.nan_to_num(7.0), before[name].nan_to_num(7.0))


def test_equal_activations_are_refused():
    with pytest.raises(ShapeError, match="nothing to learn"):
        step(training(), torch.ones(64, 24), 1e-2)


def test_a_residual_without_variance_gives_no_auxk():
    made = training(auxk_weight=1.0)
    made.silent_tokens[100:] = 10_000
    identity = torch.cat([torch.eye(24), -torch.eye(24), torch.zeros(112, 24)])
    with torch.no_grad():
        made.sae.W_enc.copy_(identity.T)
        made.sae.W_dec.copy_(identity)
        made.sae.b_enc.zero_()
        made.sae.b_dec.zero_()
    x = torch.diag(torch.arange(1.0, 25.0))
    assert step(made, x, 1e-2).loss == 0


def test_weights_in_another_layout_are_trained_in_place():
    made, other = training(), training()
    other.sae.W_enc.data = other.sae.W_enc.data.contiguous()
    other = Training(other.sae, other.config)
    x = torch.randn(64, 24)
    for one in (made, other):
        step(one, x, 1e-2)
    assert torch.equal(made.sae.W_enc, other.sae.W_enc)


def test_activations_beyond_the_range_of_float32_are_no_perfect_fit():
    made = training()
    facts = step(made, torch.randn(64, 24) * 2.0**100, 1e-2)
    assert not facts.loss < float("inf")
    assert made.steps_done == 0
