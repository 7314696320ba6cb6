"""The SAE itself: codes, reconstruction, losses, training, files."""

import dataclasses
import json

import pytest
import torch

import saes
from saes import SAE, ConfigError, DivergedError, FormatError, SAEConfig, ShapeError, TrainConfig
from saes.chosen import larger_than, topk_activations
from saes.losses import auxk, fvu
from saes.optimisers import adam, signum
from saes.schedule import default_lr, lr_factor
from tests.conftest import random_sae

CONFIG = SAEConfig(d_in=16, d_sae=64, k=4)
TRAIN = TrainConfig(total_tokens=256 * 60, batch_tokens=256, lr=3e-3, dead_after_tokens=2048)


def planted(seed: int = 0, d_in: int = 16, n: int = 32, active: int = 3):
    """Endless batches made of a few directions at a time, so that a top-k SAE can explain them."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(n, d_in, generator=generator), dim=-1)
    while True:
        strength = torch.rand(256, n, generator=generator) + 0.5
        chosen = torch.rand(256, n, generator=generator).topk(active).indices
        codes = torch.zeros(256, n).scatter(-1, chosen, strength)
        yield codes @ directions


def test_codes_hold_the_k_strongest_latents():
    sae = random_sae()
    x = torch.randn(50, 32)
    pre = torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_enc)
    dense = sae.encode(x).to_dense()
    threshold = pre.topk(6).values[:, -1:]
    torch.testing.assert_close(dense, torch.where(pre >= threshold, pre, 0.0))
    torch.testing.assert_close(sae(x), dense @ sae.W_dec + sae.b_dec)


def test_activations_of_chosen_latents_equal_those_of_the_whole_code():
    sae = random_sae()
    x = torch.randn(5, 7, 32)
    dense = sae.encode(x).to_dense()
    latents = torch.tensor([0, 17, 95])
    assert torch.equal(sae.activations_of(x, latents), dense[..., latents])
    per_row = torch.tensor([[1], [2], [3], [4], [95]])
    expected = torch.stack([dense[row, :, latent] for row, latent in enumerate(per_row)])
    assert torch.equal(sae.activations_of(x, per_row), expected)
    assert (dense[..., latents] > 0).any()


@pytest.mark.parametrize("activation", ["topk", "relu", "jumprelu", "batch_topk"])
def test_activations_of_chosen_latents_of_a_wide_sae_need_few_others(activation):
    """More latents than are encoded at once: latents in every block, silent, weak and among the largest."""
    torch.manual_seed(0)
    k = 6 if activation in ("topk", "batch_topk") else None
    sae = SAE(SAEConfig(32, 5000, k, activation=activation)).requires_grad_(False)
    sae.b_enc.copy_(0.1 * torch.randn(5000))
    sae.b_dec.copy_(0.1 * torch.randn(32))
    if activation in ("jumprelu", "batch_topk"):
        sae.threshold.fill_(2.5)
    x = torch.randn(4, 9, 32)
    dense = sae.encode(x).to_dense()
    active = torch.cat([dense[row, place].topk(4).indices for row, place in ((0, 0), (3, 2))])
    latents = torch.cat([active, torch.tensor([0, 1023, 1024, 4999])])
    torch.testing.assert_close(sae.activations_of(x, latents), dense[..., latents])
    per_row = torch.stack([latents[:3], latents[3:6], latents[6:9], latents[-3:]])
    expected = torch.stack([dense[row][:, mine] for row, mine in enumerate(per_row)])
    torch.testing.assert_close(sae.activations_of(x, per_row), expected)
    assert (dense[..., latents] > 0).any()
    assert (dense[..., latents] == 0).any()


@pytest.mark.parametrize("width", [32, 37, 5])
def test_latents_looked_at_one_by_one_give_what_products_give(width):
    torch.manual_seed(0)
    x, W_enc, b_enc = torch.randn(40, width), torch.randn(width, 3003), 0.1 * torch.randn(3003)
    pre = x @ W_enc + b_enc
    latents = torch.cat([pre.topk(9).indices[:, ::2], torch.randint(0, 3003, (40, 4))], -1)
    own = torch.relu(pre.gather(-1, latents))
    expected = own * (pre.argsort(descending=True).argsort().gather(-1, latents) < 7)
    none = torch.where(own > 0, 0.0, 7.0)
    assert torch.equal(own * (larger_than(x, W_enc, b_enc, latents, own, 7, none, 0) < 7), expected)
    centre = torch.randn(width)
    for repeats in (1, 7):  # few tokens, and more than are decided one by one
        many, theirs = torch.cat([x] * repeats) + centre, torch.cat([latents] * repeats)
        found = topk_activations(many, centre, W_enc, b_enc, theirs, 7)
        torch.testing.assert_close(found, torch.cat([expected] * repeats), rtol=1e-4, atol=1e-5)
        assert torch.equal(found > 0, torch.cat([expected] * repeats) > 0)
        same_for_all = topk_activations(many, centre, W_enc, b_enc, latents[:1], 7)
        one_each = topk_activations(many, centre, W_enc, b_enc, latents[:1].expand(len(many), -1), 7)
        torch.testing.assert_close(same_for_all, one_each)
    assert 0 < (expected > 0).sum() < expected.numel()


def test_gradients_reach_chosen_latents_as_they_reach_all():
    sae = SAE(SAEConfig(32, 4096, 8))
    x = torch.randn(12, 32, requires_grad=True)
    latents = sae.pre_activations(x.detach()).topk(9).indices[0]
    grads = [
        torch.autograd.grad(found.sum(), x)[0]
        for found in (sae.activations_of(x, latents), sae.encode(x).to_dense()[:, latents])
    ]
    torch.testing.assert_close(*grads)
    assert grads[0].abs().sum() > 0


def test_fvu_by_hand():
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    assert fvu(x, x) == 0
    assert fvu(x, x.mean(0).expand_as(x)) == 1
    assert fvu(x, torch.zeros_like(x)) == 2


def test_auxk_reaches_the_encoder_through_dead_latents_only_and_never_the_residual():
    sae = random_sae().requires_grad_(True)
    x = torch.randn(40, 32)
    pre = sae.pre_activations(x)
    residual = torch.randn(40, 32, requires_grad=True)
    dead = torch.zeros(96, dtype=torch.bool)
    dead[:20] = True
    loss = auxk(residual, pre, dead, sae.W_dec, k_aux=8)
    loss.backward()
    assert residual.grad is None
    assert sae.W_enc.grad[:, :20].abs().sum() > 0
    assert sae.W_enc.grad[:, 20:].abs().sum() == 0
    codes = torch.where(dead, pre, 0.0)
    values, indices = codes.topk(8)
    by_hand = torch.zeros_like(pre).scatter(-1, indices, values) @ sae.W_dec  # no bias
    torch.testing.assert_close(loss, fvu(residual, by_hand))
    assert auxk(residual, pre, torch.zeros(96, dtype=torch.bool), sae.W_dec, 8) == 0


def test_the_learning_rate_rises_stays_and_falls():
    factors = [lr_factor(step, 100, 0.1, 0.2) for step in range(100)]
    assert factors[0] == 0.1
    assert factors[9] == factors[50] == factors[79] == 1
    assert factors[99] == pytest.approx(0.05)


def test_the_default_learning_rate_falls_with_the_width_and_the_length_of_the_run():
    assert (
        adam.LR == default_lr(2**14, adam.LONG_STEPS) == default_lr(2**14, 100_000) == default_lr(2**14, 10**9) == 2e-4
    )
    assert default_lr(2**12, 100_000) == 4e-4
    assert default_lr(2**14, 12_500) == pytest.approx(4e-4)
    assert default_lr(2**14, 1) == 8 * 2e-4
    assert default_lr(2**10, 292) == pytest.approx(5.6e-3, rel=1e-2)  # measured: docs/quality.md
    assert default_lr(2**14, 1, signum.LR, signum.LONG_STEPS) == 5e-3


def test_training_explains_planted_features_and_keeps_the_decoder_at_norm_one():
    records = []
    sae = saes.fit(CONFIG, planted(), dataclasses.replace(TRAIN, total_tokens=256 * 600), records.append)
    quality, firing = saes.measure(sae, (x for x, _ in zip(planted(1), range(4), strict=False)))
    held_out, _ = saes.measure(sae, [next(planted())])
    assert held_out.fvu < 0.1
    assert held_out.l0 <= 4
    assert quality.tokens == 1024
    assert firing.density.sum().item() == pytest.approx(quality.l0, rel=1e-4)
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(64))
    assert records[0].tokens == 256
    assert records[-1].tokens == 256 * 600
    assert records[-1].fvu < 0.15 * records[0].fvu


def test_training_is_bit_identical_for_a_seed_and_differs_for_another():
    first, again = saes.fit(CONFIG, planted(), TRAIN), saes.fit(CONFIG, planted(), TRAIN)
    other = saes.fit(CONFIG, planted(), dataclasses.replace(TRAIN, seed=1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.W_enc, other.W_enc)


@pytest.mark.parametrize(("adam_beta2", "golden_fvu"), [(0.999, 0.144145), (0.95, 0.149672)])
def test_the_loss_of_fifty_steps_is_what_it_was(adam_beta2, golden_fvu):
    """The golden figure: a refactor that keeps it kept the training; a change of the training changes it on purpose."""
    records = []
    train = dataclasses.replace(TRAIN, total_tokens=256 * 50, adam_beta2=adam_beta2)
    saes.fit(CONFIG, planted(), train, records.append)
    assert records[-1].fvu == pytest.approx(golden_fvu, rel=1e-4)


def test_auxk_changes_the_training_once_latents_are_dead():
    config = SAEConfig(16, 512, 4)
    train = dataclasses.replace(TRAIN, dead_after_tokens=1024)
    records = []
    without = saes.fit(config, planted(), dataclasses.replace(train, auxk_weight=0.0), records.append)
    with_auxk = saes.fit(config, planted(), train)
    assert records[-1].dead_fraction > 0
    assert not torch.equal(without.W_enc, with_auxk.W_enc)


def test_the_scale_of_the_activations_does_not_matter():
    small = saes.fit(CONFIG, planted(), TRAIN)
    large = saes.fit(CONFIG, (64 * x for x in planted()), TRAIN)
    x = next(planted(1))
    torch.testing.assert_close(64 * small(x), large(64 * x), rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(64 * small.b_enc, large.b_enc, rtol=1e-3, atol=1e-2)


def test_gradients_are_clipped():
    free, clipped = (saes.fit(CONFIG, planted(), dataclasses.replace(TRAIN, grad_clip=clip)) for clip in (1e9, 1e-12))
    start = saes.SAE(CONFIG, TRAIN.seed)
    assert (clipped.W_enc - start.W_enc).norm() < (free.W_enc - start.W_enc).norm() / 2


def test_firing_is_measured_per_latent():
    sae, x = random_sae(d_sae=2000, k=2), torch.randn(200, 32)
    dense = sae.encode(x).to_dense()
    quality, firing = saes.measure(sae, x.split(64))
    torch.testing.assert_close(firing.density, (dense > 0).float().mean(0))
    torch.testing.assert_close(firing.maximum, dense.amax(0))
    assert quality.dead_fraction == pytest.approx((dense.amax(0) == 0).float().mean().item())
    assert 0 < quality.dead_fraction < 1


def test_measured_fvu_is_global_and_does_not_depend_on_the_batches():
    sae = random_sae()
    x = torch.randn(300, 32) + 3.0
    whole, _ = saes.measure(sae, [x])
    parts, _ = saes.measure(sae, x.split(7))
    assert whole.fvu == pytest.approx(parts.fvu, rel=1e-5)
    assert whole.fvu == pytest.approx(fvu(x, sae(x)).item(), rel=1e-4)


def test_dead_latents_are_counted_in_tokens_whatever_the_batch():
    def dead(batch):
        records = []
        stream = (torch.randn(batch, 16, generator=torch.Generator().manual_seed(i)) for i in range(10_000))
        config = TrainConfig(4096, batch, lr=1e-9, dead_after_tokens=1000, warmup_frac=0, measure_every_steps=1)
        saes.fit(SAEConfig(16, 512, 1), stream, config, records.append)
        return {record.tokens: record.dead_fraction for record in records}

    small, large = dead(128), dead(256)
    assert small[768] == large[768] == 0
    assert small[4096] > 0
    assert large[4096] > 0


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (torch.randn(256, 15), "must have shape"),
        (torch.randn(255, 16), "must have shape"),
        (torch.full((256, 16), float("nan")), "256 of 256 tokens"),
        (torch.ones(256, 16), "nothing to learn"),
    ],
)
def test_bad_activations_are_refused(batch, words):
    with pytest.raises(ShapeError, match=words):
        saes.fit(CONFIG, [batch], TRAIN)


def test_a_stream_that_ends_early_is_an_error():
    with pytest.raises(ShapeError, match=r"ended early: there were .* total_tokens is"):
        saes.fit(CONFIG, [torch.randn(256, 16)], TRAIN)


def test_a_diverging_loss_stops_the_training():
    batches = (torch.randn(256, 16) for _ in range(60))
    with pytest.raises(DivergedError, match=r"The loss became (nan|inf) at step \d+ .* Lower the learning rate"):
        saes.fit(CONFIG, batches, dataclasses.replace(TRAIN, lr=1e30))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"k": 65}, "must not exceed d_sae"), ({"k": 0}, "at least 1"), ({"d_in": -1}, "whole number")],
)
def test_settings_that_cannot_work(change, words):
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(CONFIG, **change)
    with pytest.raises(ConfigError):
        TrainConfig(total_tokens=10, batch_tokens=20)


def test_an_sae_is_read_back_as_it_was_written(tmp_path):
    sae = random_sae()
    saes.save(sae, tmp_path / "sae", training={"tokens": 5})
    again = saes.load(tmp_path / "sae")
    assert again.config == sae.config
    assert all(torch.equal(a, b) for a, b in zip(sae.parameters(), again.parameters(), strict=True))
    assert sorted(path.name for path in (tmp_path / "sae").iterdir()) == ["config.json", "sae.safetensors"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "sae.safetensors").unlink(), "sae.safetensors is missing"),
        (lambda folder: (folder / "sae.safetensors").write_bytes(b"\0" * 40), "cannot be read"),
        (lambda folder: cut(folder / "sae.safetensors"), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "holds list, expected an object"),
        (lambda folder: edit_config(folder, version=9), "version 9"),
        (lambda folder: edit_config(folder, k=1000), "must not exceed"),
        (lambda folder: edit_config(folder, d_sae=95), "does not fit its config.json"),
    ],
)
def test_damaged_files_are_refused_with_their_name(tmp_path, damage, words):
    saes.save(random_sae(), tmp_path)
    damage(tmp_path)
    with pytest.raises(FormatError, match=words) as caught:
        saes.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
