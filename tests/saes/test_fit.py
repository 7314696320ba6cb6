"""Training every kind of SAE with ``fit``: it learns, its scale is folded, several share one stream."""

import dataclasses
from itertools import combinations, product

import pytest
import torch

import saes
from saes import ConfigError, SAEConfig, ShapeError, TrainConfig
from saes.losses import fvu
from saes.scale import geometric_median, ordinary
from saes.schedule import k_at, lr_factor, ramp
from tests.saes.test_sae import planted

TOPK = SAEConfig(16, 64, 4)
TRAIN = TrainConfig(256 * 200, 256, lr=5e-3, dead_after_tokens=4096, l0_weight=0.01, l1_weight=0.3)
KINDS = {
    "topk": TOPK,
    "batch_topk": dataclasses.replace(TOPK, activation="batch_topk"),
    "matryoshka": dataclasses.replace(TOPK, activation="batch_topk", prefixes=(16, 64)),
    "jumprelu": dataclasses.replace(TOPK, activation="jumprelu", k=None),
    "relu": dataclasses.replace(TOPK, activation="relu", k=None),
    "layer_norm": dataclasses.replace(TOPK, input_norm="layer_norm"),
    "constant_norm": dataclasses.replace(TOPK, input_norm="constant_norm", subtract_b_dec=False),
}
CODER = dataclasses.replace(TOPK, d_out=12, site="1.mlp_in", site_out="1.mlp_out", subtract_b_dec=False)


def coded(scale_in=1.0, scale_out=1.0):
    """A linear map of planted activations, at two sites."""
    generator = torch.Generator().manual_seed(7)
    linear = torch.randn(16, 12, generator=generator) / 4
    for x in planted():
        yield {"1.mlp_in": x * scale_in, "1.mlp_out": (x @ linear + 0.3) * scale_out}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_planted_features_at_the_scale_of_the_activations(kind):
    """That the SAE returned reads raw activations shows in the FVU, whatever their scale."""
    records = []
    sae = saes.fit(KINDS[kind], (20 * x + 3 for x in planted()), TRAIN, records.append)
    x = 20 * next(planted()) + 3
    assert fvu(x, sae(x)) < 0.3
    assert sae.config == dataclasses.replace(KINDS[kind], input_scale=sae.config.input_scale)
    active = sae.encode(x).active().mean().item()
    assert 1 < active < 14
    assert active == pytest.approx(records[-1].l0, rel=0.3)
    assert (sae.config.input_scale == 1) == (kind in ("layer_norm", "constant_norm"))
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(64))


@pytest.mark.parametrize("skip", [False, True])
def test_a_transcoder_learns_to_write_another_site(skip):
    sae = saes.fit(dataclasses.replace(CODER, skip=skip), coded(30.0, 0.01), TRAIN)
    batch = next(coded(30.0, 0.01))
    assert fvu(batch["1.mlp_out"], sae(batch["1.mlp_in"])) < (0.05 if skip else 0.25)
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(64))


def test_the_scales_of_both_sites_of_a_transcoder_are_folded():
    config, train = dataclasses.replace(CODER, skip=True), dataclasses.replace(TRAIN, total_tokens=256 * 20)
    plain, scaled = saes.fit(config, coded(), train), saes.fit(config, coded(2.0**20, 2.0**-90), train)
    x = next(coded())["1.mlp_in"]
    assert torch.equal(plain(x) * 2.0**-90, scaled(x * 2.0**20))


def test_several_saes_from_one_stream_are_those_trained_alone():
    """Widths, k, seeds, sites, kinds, lengths of training, optimisers."""
    short = dataclasses.replace(TRAIN, total_tokens=256 * 30)
    site = dataclasses.replace(TOPK, site="0.resid")
    configs = [site, dataclasses.replace(site, d_sae=96, k=2, activation="batch_topk"), CODER, site]
    trains = [
        short,
        dataclasses.replace(short, seed=3, auxk_weight=0.0),
        dataclasses.replace(short, total_tokens=256 * 20),
        dataclasses.replace(short, optimiser="adam_bf16"),
    ]

    def stream():
        return (tensors | {"0.resid": 5 * tensors["1.mlp_in"]} for tensors in coded())

    records = []
    together = saes.fit(configs, stream(), trains, records.append)
    alone = [saes.fit(config, stream(), train) for config, train in zip(configs, trains, strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert one.config == other.config
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name
    assert not torch.equal(together[0].W_dec, together[3].W_dec)
    assert [max(record.tokens for record in records if record.sae == number) for number in range(4)] == [
        train.total_tokens for train in trains
    ]


def test_one_train_config_serves_all():
    train = dataclasses.replace(TRAIN, total_tokens=256)
    first, second = saes.fit([TOPK, TOPK], planted(), train)
    assert torch.equal(first.W_dec, second.W_dec)


@pytest.mark.parametrize(
    ("configs", "trains", "words"),
    [
        ([], [], "got 0 SAEs"),
        ([TOPK], [TRAIN, TRAIN], "got 1 SAEs and 2"),
        ([TOPK, TOPK], [TRAIN, dataclasses.replace(TRAIN, batch_tokens=128)], r"batch_tokens must be equal: got \[128"),
        ([TOPK], [dataclasses.replace(TRAIN, k_start=3)], "k_start falls to k.* got 3"),
        ([KINDS["relu"]], [dataclasses.replace(TRAIN, k_start=3)], "k_start falls to k"),
        ([dataclasses.replace(CODER, site_out=None)], [TRAIN], "Say which with site_out"),
        ([CODER], [TRAIN], "needs both sites of each batch, got one tensor"),
    ],
)
def test_settings_that_do_not_fit_together(configs, trains, words):
    with pytest.raises(ConfigError, match=words):
        saes.fit(configs, planted(), trains)


def test_batches_without_the_site_are_refused_with_what_they_hold():
    with pytest.raises(ConfigError, match=r"site is '9.resid_post', but the batches hold 1.mlp_in, 1.mlp_out"):
        saes.fit(dataclasses.replace(TOPK, site="9.resid_post"), coded(), TRAIN)
    with pytest.raises(ShapeError, match=r"must have shape \[256, 12\], got \[256, 16\]"):
        saes.fit(CODER, ({"1.mlp_in": x, "1.mlp_out": x} for x in planted()), TRAIN)
    lone = saes.fit(TOPK, ({"a": x} for x in planted()), dataclasses.replace(TRAIN, total_tokens=256))
    assert lone.config.site is None


def test_batches_on_several_devices_are_refused():
    with pytest.raises(ShapeError, match="one device: got meta, expected cpu"):
        saes.fit(CODER, ({"1.mlp_in": x["1.mlp_in"], "1.mlp_out": x["1.mlp_out"].to("meta")} for x in coded()), TRAIN)
    with pytest.raises(ShapeError, match="one device: got meta, expected cpu"):
        saes.fit(TOPK, (x if i == 0 else x.to("meta") for i, x in enumerate(planted())), TRAIN)


def test_outliers_never_reach_loss_statistics_or_counters():
    """A stream with outliers gives what the stream without their tokens gives."""
    train = TrainConfig(250 * 20, 250, lr=3e-3, dead_after_tokens=2000)
    spoilt_train = dataclasses.replace(train, total_tokens=256 * 20, batch_tokens=256, outlier_norm=10.0)
    generator = torch.Generator().manual_seed(3)

    def spoilt():
        for x in planted():
            huge = 1e4 * torch.randn(6, 16, generator=generator)
            yield torch.cat([huge[:3], x[:250], huge[3:]])

    clean, filtered = [], []
    first = saes.fit(TOPK, (x[:250] for x in planted()), train, clean.append)
    second = saes.fit(TOPK, spoilt(), spoilt_train, filtered.append)
    torch.testing.assert_close(first.W_enc, second.W_enc, rtol=1e-4, atol=1e-5)
    assert filtered[-1].fvu == pytest.approx(clean[-1].fvu, rel=1e-3)
    assert filtered[-1].dead_fraction == clean[-1].dead_fraction
    keep = ordinary(torch.diag(torch.tensor([1.0, 2.0, 2.0, 3.0, 2e30])), 1.5)
    assert keep.tolist() == [True, True, True, True, False]


def test_the_decoder_bias_begins_where_it_is_told():
    train = TrainConfig(256, 256, lr=1e-12, warmup_frac=0)
    x = 5 * next(planted())
    x[:20] += 100

    def start(how):
        return saes.fit(TOPK, [x], dataclasses.replace(train, b_dec_init=how)).b_dec

    torch.testing.assert_close(start("mean"), x.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(start("geometric_median"), geometric_median(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(start("zero"), torch.zeros(16), rtol=0, atol=1e-8)
    assert (geometric_median(x) - x[20:].mean(0)).norm() < 0.1 * (x.mean(0) - x[20:].mean(0)).norm()


def test_the_geometric_median_has_the_least_summed_distance():
    x = torch.randn(101, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp()
    middle = geometric_median(x)
    pull = ((x - middle) / (x - middle).norm(dim=-1, keepdim=True)).sum(0)  # minus the gradient of the sum
    assert pull.norm() < 1e-3
    assert torch.equal(geometric_median(torch.ones(4, 3)), torch.ones(3))
    on_a_point = torch.tensor([[0.0], [1.0], [5.0]])
    assert geometric_median(on_a_point, steps=500).item() == pytest.approx(1, abs=1e-2)


def test_k_falls_and_is_logged():
    assert [k_at(step, 100, 4, 24, 0.2) for step in (0, 5, 10, 19, 20, 99)] == [24, 19, 14, 5, 4, 4]
    assert k_at(0, 100, 4, None, 0.2) == k_at(0, 100, 4, 24, 0.0) == 4
    train = dataclasses.replace(TRAIN, total_tokens=256 * 20, k_start=24, k_decay_frac=0.5, measure_every_steps=1)
    for kind in ("topk", "matryoshka"):
        records = []
        saes.fit(KINDS[kind], planted(), train, records.append)
        assert [record.k for record in records[:3]] == [24, 22, 20]
        assert [record.k for record in records[10:]] == [4] * 10
        assert records[0].l0 > records[-1].l0


def test_learning_rates_are_logged_and_follow_their_schedule():
    assert [lr_factor(step, 100, 0.1, 0.5, "cosine") for step in (9, 49, 75)] == pytest.approx([1, 1, 0.5])
    assert lr_factor(99, 100, 0.1, 0.5, "cosine") < 1e-3
    assert lr_factor(99, 100, 0.1, 0.5, "constant") == 1
    assert [ramp(step, 100, 0.1) for step in (0, 4, 9, 50)] == pytest.approx([0.1, 0.5, 1, 1])
    assert ramp(0, 100, 0.0) == 1
    train = dataclasses.replace(TRAIN, total_tokens=256 * 10, lr=None, warmup_frac=0, measure_every_steps=3)
    records = []
    saes.fit(TOPK, planted(), train, records.append)
    assert [record.tokens for record in records] == [256, 4 * 256, 7 * 256, 10 * 256]
    assert records[0].lr == pytest.approx(8 * 2e-4 / (64 / 2**14) ** 0.5)
    assert records[-1].lr == pytest.approx(records[0].lr / 2)
    assert all(record.tokens_per_second > 0 for record in records)
    assert records[-1].memory_mib is None or records[-1].memory_mib > 10


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimiser": "sgd"}, "optimiser must be one of adam, adam_bf16, adam_8bit, signum, got 'sgd'"),
        ({"lr_schedule": "sine"}, "lr_schedule must be one of"),
        ({"compute_dtype": "float16"}, "compute_dtype must be one of"),
        ({"b_dec_init": "median"}, "b_dec_init must be one of"),
        ({"k_start": 0}, "k_start must be a whole number"),
        ({"k_decay_frac": 2.0}, "k_decay_frac must lie between 0 and 1"),
        ({"l1_weight": -1.0}, "l1_weight must not be negative"),
        ({"jumprelu_bandwidth": 0.0}, "jumprelu_bandwidth must be positive"),
        ({"outlier_norm": 0.5}, "outlier_norm must exceed 1"),
        ({"outlier_norm": float("inf")}, "outlier_norm must be a finite number"),
    ],
)
def test_training_settings_that_cannot_work(monkeypatch, change, words):
    import inspect

    monkeypatch.setattr(TrainConfig, "__init__", inspect.unwrap(TrainConfig.__init__))  # without the tests' type checks
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(TRAIN, **change)


OPTIONS = {
    "optimiser": ["adam", "adam_bf16", "adam_8bit", "signum"],
    "selection": ["exact", "proven", "fast"],
    "compute_dtype": ["float32", "bfloat16"],
    "b_dec_init": ["mean", "geometric_median", "zero"],
    "auxk_weight": [0.0, 1 / 32],
    "multi_topk_weight": [0.0, 0.125],
    "lr_schedule": ["linear", "cosine"],
    "outlier_norm": [None, 10.0],
    "grad_clip": [0.01, 1.0],
}


@pytest.mark.parametrize(("first", "second"), combinations(OPTIONS, 2))
def test_every_pair_of_options_trains_or_is_refused_before_it_does(first, second):
    """An option that works alone and fails with another one was a defect of several public trainers."""
    trained = 0
    for one, other in product(OPTIONS[first], OPTIONS[second]):
        for kind in ("topk", "batch_topk", "jumprelu"):
            try:
                train = TrainConfig(64 * 2, 64, **{first: one, second: other})
                sae = saes.fit(KINDS[kind], (x[:64] for x in planted()), train)
            except ConfigError:
                continue
            assert all(tensor.isfinite().all() for tensor in sae.state_dict().values())
            trained += 1
    assert trained >= 3
