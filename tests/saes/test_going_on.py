"""``fit`` given SAEs: training goes on from their weights."""

import copy
import dataclasses
import json

import pytest
import torch

import saes
from saes import SAE, ConfigError, RunConfig, SAEConfig, ShapeError, TrainConfig
from tests.saes.ranks import ranks
from tests.saes.test_distributed import TOKENS, WIDTH, Stream
from tests.saes.test_fit import CODER, KINDS, TOPK, TRAIN, coded
from tests.saes.test_sae import planted

STILL = TrainConfig(256, 256, lr=1e-30, measure_every_steps=1)
"""One step that moves nothing: what comes back is what was given, scaled and folded again."""
ONWARDS = TrainConfig(256 * 20, 256, lr=1e-3, measure_every_steps=1)


def shifted():
    return (20 * x + 3 for x in planted())


@pytest.mark.parametrize("kind", KINDS)
def test_training_begins_at_the_weights_that_the_sae_has(kind):
    """The last step of one training and the first of the next have nearly the same FVU, whatever the scale."""
    records, more = [], []
    sae = saes.fit(KINDS[kind], shifted(), dataclasses.replace(TRAIN, measure_every_steps=1), records.append)
    before = copy.deepcopy(sae)
    again = saes.fit(sae, shifted(), ONWARDS, more.append)
    assert records[0].fvu > 2 * records[-1].fvu
    assert more[0].fvu == pytest.approx(records[-1].fvu, rel=0.3)
    assert more[-1].fvu < 1.2 * records[-1].fvu
    assert more[0].tokens == 256  # counters and schedules begin anew
    assert again is not sae
    assert again.config == dataclasses.replace(sae.config, input_scale=again.config.input_scale)
    for name, tensor in before.state_dict().items():
        assert torch.equal(sae.state_dict()[name], tensor), name  # it is copied


@pytest.mark.parametrize("kind", [*KINDS, "transcoder", "skip"])
def test_scaling_and_folding_again_changes_nothing(kind):
    """Also of an SAE whose decoder rows are not of norm 1, where no selection compares its latents."""
    config = KINDS.get(kind) or dataclasses.replace(CODER, skip=kind == "skip")
    batches = coded(30.0, 0.01) if config.is_transcoder else shifted()
    first = next(coded(30.0, 0.01) if config.is_transcoder else shifted())
    sae = saes.fit(config, batches, dataclasses.replace(TRAIN, total_tokens=256 * 30))
    if config.k is None:
        norms = torch.linspace(0.2, 3, 64)
        norms[5] = 0  # a latent that writes nothing
        sae.W_dec *= norms.unsqueeze(-1)
    x = first["1.mlp_in"] if isinstance(first, dict) else first
    again = saes.fit(sae, iter([first]), STILL)
    if config.activation == "batch_topk":
        again.threshold.copy_(sae.threshold)  # it is measured anew in training
    torch.testing.assert_close(again(x), sae(x), rtol=1e-4, atol=1e-5 * float(sae(x).abs().max()))
    active, was = again.encode(x).to_dense() > 0, sae.encode(x).to_dense() > 0
    if config.k is None:
        assert was[:, 5].any()
        assert not active[:, 5].any()  # it wrote nothing, and would from the first step on
        was[:, 5] = False
    assert torch.equal(active, was)
    if config.k is None:
        lengths = again.W_dec.norm(dim=-1)
        torch.testing.assert_close(lengths, torch.ones(64).index_fill(0, torch.tensor(5), 0))


def test_a_negative_threshold_of_a_gated_sae_lets_the_same_through():
    sae = SAE(dataclasses.replace(TOPK, activation="jumprelu", k=None)).requires_grad_(False)
    sae.threshold.fill_(-0.5)
    x = next(planted())
    again = saes.fit(sae, [x], STILL)
    assert 0 <= again.threshold.min() <= again.threshold.max() < 1e-20
    torch.testing.assert_close(again(x), sae(x))


def test_saes_and_configs_go_on_together_as_they_do_alone():
    sae = saes.fit(TOPK, planted(), dataclasses.replace(TRAIN, total_tokens=256 * 20))
    new = dataclasses.replace(TOPK, k=8)
    trained = saes.fit([sae, new, sae], planted(), [ONWARDS, ONWARDS, dataclasses.replace(ONWARDS, lr=3e-3)])
    for one, (given, lr) in zip(trained, [(sae, 1e-3), (new, 1e-3), (sae, 3e-3)], strict=True):
        alone = saes.fit(given, planted(), dataclasses.replace(ONWARDS, lr=lr))
        for name, tensor in alone.state_dict().items():
            assert torch.equal(one.state_dict()[name], tensor), name


@pytest.fixture(scope="module")
def first():
    return saes.fit(SAEConfig(WIDTH, 32, 4, site="a"), Stream(), TrainConfig(TOKENS * 10, TOKENS, lr=5e-3))


MORE = TrainConfig(TOKENS * 12, TOKENS, lr=5e-3, measure_every_steps=1)


def test_a_run_that_goes_on_from_an_sae_is_gone_on_with_from_the_same_one_only(tmp_path, first):
    whole = saes.fit(first, Stream(), MORE)
    run = RunConfig(tmp_path, save_every_steps=4, stop_after_steps=5)
    saes.fit(first, Stream(), MORE, run=run)
    for other in (dataclasses.replace(first.config, input_scale=1.0), SAE(first.config, seed=1)):
        with pytest.raises(ConfigError, match=r"started_from is '[0-9a-f]{64}' there"):
            saes.fit(other, Stream(), MORE, run=run)
    again = saes.fit(saes.load(_saved(first, tmp_path / "../first")), Stream(), MORE, run=RunConfig(tmp_path))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    settings = json.loads((tmp_path / "run.json").read_text())["saes"][0]
    assert settings["config"]["input_scale"] == 1.0
    told = json.loads((tmp_path / "sae-0" / "config.json").read_text())["training"]
    assert told["started_from"] == settings["started_from"]


def _saved(sae, folder):
    saes.save(sae, folder)
    return folder


@pytest.mark.parametrize("shards", [1, 2])
def test_two_processes_go_on_as_one_does(tmp_path, first, shards):
    def curve(world):
        records = []
        run = RunConfig(tmp_path / "run")
        saes.fit(first, saes.Slices(Stream(), world), MORE, records.append, run, world)
        return [one.fvu for one in records]

    records = []
    saes.fit(first, Stream(), MORE, records.append)
    expected = [one.fvu for one in records]
    for found in ranks(2, tmp_path / "ranks", curve, shards):
        assert found == pytest.approx(expected, rel=1e-5)


def _without_row(sae):
    sae = copy.deepcopy(sae)
    sae.b_enc[3] = float("nan")
    return sae


@pytest.mark.parametrize(
    ("given", "train", "kind", "words"),
    [
        (lambda sae: sae, {"b_dec_init": "zero"}, ConfigError, "b_dec_init says where a new SAE begins.*got 'zero'"),
        (lambda sae: sae, {"jumprelu_threshold": 0.3}, ConfigError, "jumprelu_threshold says where a new SAE begins"),
        (lambda sae: sae, {"k_start": 2}, ConfigError, "k_start falls to k"),
        (_without_row, {}, ShapeError, "cannot go on from this SAE: b_enc holds NaN"),
        (lambda sae: SAE(sae.config, latents=range(16)), {}, ShapeError, "holds 16 of 32 latents"),
        (lambda sae: SAE(SAEConfig(8, 32, 4, site="a")), {}, ShapeError, r"must have shape \[64, 8\], got \[64, 16\]"),
    ],
)
def test_what_training_cannot_go_on_from(first, given, train, kind, words):
    with pytest.raises(kind, match=words):
        saes.fit(given(first), Stream(), dataclasses.replace(MORE, **train))


def test_decoder_rows_that_are_too_long_are_refused_and_short_ones_go_on():
    sae = SAE(dataclasses.replace(TOPK, activation="relu", k=None)).requires_grad_(False)
    sae.W_dec[3] *= 1e-25  # its square is 0 in float32
    x = next(planted())
    again = saes.fit(sae, [x], STILL)
    torch.testing.assert_close(again(x), sae(x), rtol=1e-4, atol=1e-5)
    sae.W_dec[3] *= 1e30
    sae.W_dec[3] *= 1e30
    sae.W_enc[:, 3] += 1e5
    with pytest.raises(ShapeError, match=r"with decoder rows at norm 1, .* overflows\. The longest row has norm"):
        saes.fit(sae, [x], STILL)
