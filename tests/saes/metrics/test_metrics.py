"""Quality metrics against their formulas in plain float64 numpy, and what they must not depend on."""

import dataclasses

import numpy as np
import pytest
import torch

import saes
from saes import ConfigError, Placed, SAEConfig, ShapeError
from saes.metrics.sparsity import LOG_EDGES, Firing
from tests.conftest import random_sae

TOKENS, D_IN, D_SAE = 60, 32, 96


def identity_sae(d_in: int = D_IN):
    """``a = relu([x, -x])`` and ``x_hat = a [1; -1]`` give x back exactly."""
    sae = random_sae(d_in=d_in, d_sae=2 * d_in, k=d_in)
    eye = torch.eye(d_in)
    with torch.no_grad():
        sae.W_enc.copy_(torch.cat([eye, -eye], 1))
        sae.W_dec.copy_(torch.cat([eye, -eye]))
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    return sae


@pytest.fixture
def x():
    return torch.randn(TOKENS, D_IN) * 2 + 3


def arrays(sae, x):
    """Input, reconstruction, error and dense codes in float64."""
    codes = sae.encode(x).to_dense().double().numpy()
    w_dec, b_dec = sae.W_dec.double().numpy(), sae.b_dec.double().numpy()
    x = x.double().numpy()
    return x, codes @ w_dec + b_dec, codes


def test_variance_metrics_equal_their_formulas(x):
    sae = random_sae()
    quality, _ = saes.measure(sae, [x], block_tokens=25)
    a, a_hat, _ = arrays(sae, x)
    error = ((a - a_hat) ** 2).sum(-1)
    assert quality.fvu == pytest.approx(error.sum() / ((a - a.mean(0)) ** 2).sum(), rel=1e-6)
    assert quality.explained_variance == 1 - quality.fvu
    assert quality.mse == pytest.approx(((a - a_hat) ** 2).mean(), rel=1e-6)
    per_batch, centred, ratios = [], [], []
    for rows in (slice(0, 25), slice(25, 50), slice(50, 60)):
        about_mean = ((a[rows] - a[rows].mean(0)) ** 2).sum(-1)
        ratios.extend(error[rows] / about_mean)
        if rows.stop < 60:  # full blocks alone
            per_batch.append(error[rows].sum() / about_mean.sum())
            residual = a[rows] - a_hat[rows]
            centred.append(residual.var(0, ddof=1).sum() / a[rows].var(0, ddof=1).sum())  # as dictionary_learning
    assert quality.fvu_per_batch == pytest.approx(np.mean(per_batch), rel=1e-6)
    assert quality.fvu_per_batch_centred == pytest.approx(np.mean(centred), rel=1e-6)
    assert quality.fvu_per_token == pytest.approx(np.mean(ratios), rel=1e-6)


def test_the_definitions_differ_where_they_should(x):
    """The centred one does not see a constant error; means that differ between batches count as variance globally."""
    sae = identity_sae()
    shifted = dataclasses.replace(sae.config, subtract_b_dec=False)
    biased = saes.SAE(shifted)
    biased.load_state_dict(sae.state_dict())
    with torch.no_grad():
        biased.b_dec.fill_(1.0)  # x_hat = x + 1
    quality, _ = saes.measure(biased.requires_grad_(False), [x])
    assert quality.fvu_per_batch_centred == pytest.approx(0, abs=1e-9)
    assert quality.fvu == pytest.approx(quality.fvu_per_batch, rel=1e-9)
    assert quality.fvu == pytest.approx(D_IN * TOKENS / (x - x.mean(0)).square().sum().item(), rel=1e-5)
    two = torch.cat([x, x + 100])
    apart, _ = saes.measure(biased, [two], block_tokens=TOKENS)
    assert apart.fvu < apart.fvu_per_batch / 100


def test_likeness_and_sparsity_equal_their_formulas(x):
    sae = random_sae()
    quality, firing = saes.measure(sae, [x])
    a, a_hat, codes = arrays(sae, x)
    norms, norms_hat = np.linalg.norm(a, axis=-1), np.linalg.norm(a_hat, axis=-1)
    assert quality.cosine == pytest.approx(((a * a_hat).sum(-1) / norms / norms_hat).mean(), rel=1e-6)
    assert quality.relative_norm == pytest.approx((norms_hat / norms).mean(), rel=1e-6)
    assert quality.reconstruction_bias == pytest.approx((a_hat**2).sum() / (a * a_hat).sum(), rel=1e-6)
    l0 = (codes > 0).sum(-1)
    assert quality.l0 == pytest.approx(l0.mean())
    assert quality.l0_counts == tuple(np.bincount(l0))
    assert sum(quality.l0_counts) == quality.tokens == TOKENS
    assert quality.l1 == pytest.approx(codes.sum(-1).mean(), rel=1e-6)
    assert quality.dead_fraction == pytest.approx((codes.max(0) == 0).mean())
    assert firing.counts.tolist() == (codes > 0).sum(0).tolist()
    assert firing.maximum.numpy() == pytest.approx(codes.max(0))


def test_densities_go_into_fixed_bins():
    counts = torch.tensor([0, 0, 1, 9, 10, 1000, 200_000, 1_000_000])
    histogram = Firing(counts / 1e6, torch.ones(8), counts, 1_000_000).histogram()
    bins = {
        LOG_EDGES[place]: number for place, number in enumerate(histogram.latents) if number
    }  # lower edge of each bin
    assert bins == {-6.0: 1, -5.25: 1, -5.0: 1, -3.0: 1, -0.75: 1, -0.25: 1}
    assert histogram.never == 2
    assert histogram.below == {"1e-05": 4, "1e-06": 2, "1e-07": 2}
    assert histogram.above == {"1e-01": 2, "1e-02": 2}
    assert sum(histogram.latents) + histogram.never == 8


def test_a_perfect_sae_has_perfect_figures(x):
    quality, _ = saes.measure(identity_sae(), [x])
    for name in ("fvu", "fvu_per_batch", "fvu_per_batch_centred", "fvu_per_token", "mse"):
        assert getattr(quality, name) == pytest.approx(0, abs=1e-12)
    for name in ("cosine", "relative_norm", "reconstruction_bias", "explained_variance"):
        assert getattr(quality, name) == pytest.approx(1)


@pytest.mark.parametrize("sizes", [[60], [1] * 60, [7] * 9, [25, 0, 35]])
def test_no_bit_depends_on_how_tokens_come_in_batches(x, sizes):
    sae = random_sae()
    text = torch.arange(TOKENS) // 7
    whole = Placed(x, torch.arange(TOKENS) % 7, text)
    expected, expected_firing = saes.measure(sae, [whole], block_tokens=16)
    start, parts = 0, []
    for size in sizes:
        rows = slice(start, min(start + size, TOKENS))
        parts.append(Placed(x[rows], whole.position[rows], text[rows]))
        start += size
    got, firing = saes.measure(sae, parts, block_tokens=16)
    assert got == expected
    assert got.positions == expected.positions
    assert torch.equal(got.texts.total, expected.texts.total)
    assert torch.equal(firing.counts, expected_firing.counts)
    assert torch.equal(firing.maximum, expected_firing.maximum)


def test_the_order_of_tokens_changes_the_metrics_of_blocks_alone(x):
    sae = random_sae()
    one, _ = saes.measure(sae, [x], block_tokens=16)
    two, _ = saes.measure(sae, [x[torch.randperm(TOKENS)]], block_tokens=16)
    of_blocks = {"fvu_per_batch", "fvu_per_batch_centred", "fvu_per_token"}
    for field in dataclasses.fields(one):
        if field.compare and field.name not in of_blocks:
            assert getattr(one, field.name) == pytest.approx(getattr(two, field.name), rel=1e-6), field.name
    assert one.fvu_per_batch != pytest.approx(two.fvu_per_batch, rel=1e-6)


def test_a_large_mean_costs_no_digits():
    """Squares less the squared mean would leave nothing of a variance that is 1e-14 of them."""
    x = torch.randn(40, D_IN).double()
    far = (x + 2.0**23).float()  # as float32 can hold it
    quality, _ = saes.measure(random_sae(), [far])
    a, a_hat, _ = arrays(random_sae(), far)
    assert quality.fvu == pytest.approx(((a - a_hat) ** 2).sum() / ((a - a.mean(0)) ** 2).sum(), rel=1e-4)


def test_norms_by_position_and_sums_by_text(x):
    sae = random_sae()
    position, text = torch.arange(TOKENS) % 8 + 1, torch.arange(TOKENS) // 8
    quality, _ = saes.measure(sae, [Placed(x, position, text)], block_tokens=20)
    a, a_hat, _ = arrays(sae, x)
    assert quality.positions.tokens == (0, 8, 8, 8, 8, 7, 7, 7, 7)
    assert np.isnan(quality.positions.input[0])
    for place in range(1, 9):
        rows = position.numpy() == place
        for got, rows_of in (
            (quality.positions.input, a),
            (quality.positions.reconstruction, a_hat),
            (quality.positions.error, a - a_hat),
        ):
            assert got[place] == pytest.approx(np.linalg.norm(rows_of[rows], axis=-1).mean(), rel=1e-5)
    sums = quality.texts
    assert sums.tokens.tolist() == [8] * 7 + [4]
    assert sums.fvu().item() == quality.fvu
    first_twice = torch.tensor([[2.0, *[0.0] * 6, 1.0]], dtype=torch.float64)
    chosen = torch.cat([x[:8], x[:8], x[56:]])
    assert sums.fvu(first_twice).item() == pytest.approx(saes.measure(sae, [chosen])[0].fvu, rel=1e-6)
    assert saes.measure(sae, [x])[0].positions is None


@pytest.mark.parametrize("row", [torch.zeros(D_IN), torch.ones(D_IN)])
def test_activations_without_variance_have_no_fvu(row):
    with pytest.raises(ShapeError, match="All 5 tokens have equal activations"):
        saes.measure(random_sae(), [row.expand(5, D_IN)])


def test_what_cannot_be_measured(x):
    with pytest.raises(ShapeError, match="Either all batches"):
        saes.measure(random_sae(), [x, Placed(x, torch.arange(TOKENS), torch.zeros(TOKENS, dtype=torch.long))])
    with pytest.raises(ConfigError, match="transcoder"):
        saes.measure(saes.SAE(SAEConfig(D_IN, D_SAE, 4, site_out="1.mlp_out", subtract_b_dec=False)), [x])


CODER = SAEConfig(D_IN, D_SAE, 4, site="1.resid_pre", site_out="1.mlp_out", d_out=20, skip=True, subtract_b_dec=False)


@pytest.mark.parametrize("placed", [False, True])
def test_a_transcoder_is_measured_by_what_it_writes(x, placed):
    sae, y = saes.SAE(CODER, seed=3).requires_grad_(False), torch.randn(TOKENS, 20) + 1
    sae.W_skip.normal_(generator=torch.Generator().manual_seed(0))
    text, position = torch.arange(TOKENS) // 7, torch.arange(TOKENS) % 7
    given = [Placed(x, position, text, y)] if placed else [{"1.resid_pre": x, "1.mlp_out": y, "0.resid_pre": x}]
    quality, firing = saes.measure(sae, given, block_tokens=25)
    codes = sae.encode(x).to_dense().double()
    y_hat = (codes @ sae.W_dec.double() + sae.b_dec.double() + x.double() @ sae.W_skip.double()).numpy()
    b = y.double().numpy()
    error = ((b - y_hat) ** 2).sum(-1)
    assert quality.fvu == pytest.approx(error.sum() / ((b - b.mean(0)) ** 2).sum(), rel=1e-5)
    assert quality.mse == pytest.approx(error.mean() / 20, rel=1e-5)
    lengths = np.linalg.norm(b, axis=-1) * np.linalg.norm(y_hat, axis=-1)
    assert quality.cosine == pytest.approx(((b * y_hat).sum(-1) / lengths).mean(), rel=1e-5)
    assert quality.l0 == (codes > 0).sum().item() / TOKENS
    assert firing.counts.tolist() == (codes > 0).sum(0).tolist()
    if placed:
        assert quality.positions.input[3] == pytest.approx(np.linalg.norm(b[position.numpy() == 3], axis=-1).mean())
        assert quality.texts.fvu().item() == quality.fvu
        return
    parts = [{"1.resid_pre": x[rows], "1.mlp_out": y[rows]} for rows in (slice(0, 11), slice(11, TOKENS))]
    assert saes.measure(sae, parts, block_tokens=25)[0] == quality


def test_what_a_transcoder_cannot_be_measured_on(x):
    sae, where = saes.SAE(CODER), (torch.arange(TOKENS), torch.zeros(TOKENS, dtype=torch.long))
    y = torch.randn(TOKENS, 20)
    for batch, kind, words in (
        (x, ConfigError, "needs both sites of each batch, got one tensor"),
        ({"1.resid_pre": x}, ConfigError, "'1.mlp_out', but the batches hold 1.resid_pre"),
        (Placed(x, *where), ConfigError, "got none for a transcoder"),
        ({"1.resid_pre": x, "1.mlp_out": x}, ShapeError, r"must have shape \[60, 20\], got \[60, 32\]"),
        (Placed(x, *where, y[1:]), ShapeError, r"must have shape \[60, 20\], got \[59, 20\]"),
    ):
        with pytest.raises(kind, match=words):
            saes.measure(sae, [batch])
    with pytest.raises(ConfigError, match="got one for an autoencoder"):
        saes.measure(random_sae(), [Placed(x, *where, y)])
