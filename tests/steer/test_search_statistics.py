"""The statistics of contrasts: against exact and published formulas, on planted latents, on nothing, on confounds."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from steer.errors import DataError
from steer.search.auc import auc_interval, ranks_within, stratified_auc
from steer.search.contrast import ContrastConfig, contrast
from steer.search.permutation import Permutations, false_discovery, least_p, prompts_needed, weighted_ranks
from steer.search.pooled import Fired, by_latent, pooled
from steer.search.strata import length_strata


def drawn(rng, lengths, density, extra=None):
    """Prompts of some lengths whose latents fire at random; ``extra(number)``: latents that fire besides, strongly."""
    found = []
    for number, length in enumerate(lengths):
        tokens, latents = np.nonzero(rng.random((length, len(density))) < density)
        values = 0.1 + rng.exponential(size=len(tokens))
        more = np.array([] if extra is None else extra(number), dtype=np.int64)
        found.append(
            Fired(
                np.concatenate([latents, more]),
                np.concatenate([values, 5 + rng.random(len(more))]),
                np.concatenate([tokens, np.zeros(len(more), dtype=np.int64)]),
                int(length),
            )
        )
    return found


def ps_of(weighted, first, strata, most):
    permuted = Permutations(first, strata, 1000, most, seed=0)
    permuted.add(weighted[:, :1])
    permuted.add(weighted[:, 1:])
    return permuted.ps()


def halves(n):
    return np.arange(2 * n) < n


def everything(n):
    return [np.arange(n)]


def test_auc_is_mann_whitney_with_ties_and_over_strata_the_mean_over_their_pairs():
    rng = np.random.default_rng(0)
    values, first = rng.integers(0, 4, (30, 5)).astype(float), rng.random(30) < 0.4
    n = first.sum() * (~first).sum()
    expected = [mannwhitneyu(values[first, i], values[~first, i]).statistic / n for i in range(5)]
    assert np.allclose(stratified_auc(ranks_within(values, everything(30)), first, everything(30)), expected)
    strata = [np.arange(12), np.arange(12, 30)]
    above = sum((values[first & m][:, None] > values[~first & m][None]).sum((0, 1)) for m in masks(strata, 30))
    ties = sum((values[first & m][:, None] == values[~first & m][None]).sum((0, 1)) for m in masks(strata, 30))
    pairs = sum((first & m).sum() * (~first & m).sum() for m in masks(strata, 30))
    assert np.allclose(stratified_auc(ranks_within(values, strata), first, strata), (above + ties / 2) / pairs)


def masks(strata, n):
    return [np.isin(np.arange(n), group) for group in strata]


def test_permutation_p_is_that_of_all_exchanges():
    rng = np.random.default_rng(1)
    values = rng.standard_normal((12, 6)) + np.linspace(0, 6, 6) * (np.arange(12) < 6)[:, None]
    first, strata = np.arange(12) < 6, everything(12)
    weighted = weighted_ranks(ranks_within(values, strata), strata)
    sums = np.array([weighted[list(chosen)].sum(0) for chosen in combinations(range(12), 6)])
    exact = (np.abs(sums) >= np.abs(weighted[first].sum(0)) - 1e-9).mean(0)
    p, n = ps_of(weighted, first, strata, 100_000)
    assert np.all(np.abs(p - exact) < 4 * np.sqrt(exact * (1 - exact) / n) + 2 / n)
    assert n[exact.argmin()] == 10_000  # looked at again
    assert n[exact.argmax()] == 1000
    assert least_p(first, strata) == pytest.approx(2 / 924)


def test_exchanges_stay_within_strata():
    """In each stratum all of a set are alike, so within strata there is nothing to exchange that matters."""
    values = np.array([[0.0], [0], [0], [0], [1], [1], [1], [1]])
    first = np.array([True, False, False, False, True, True, True, False])
    strata = [np.arange(4), np.arange(4, 8)]
    weighted = weighted_ranks(ranks_within(values, strata), strata)
    p, _ = ps_of(weighted, first, strata, 1000)
    assert p.tolist() == [1.0]
    whole = everything(8)
    assert ps_of(weighted_ranks(ranks_within(values, whole), whole), first, whole, 1000)[0][0] < 1


def test_false_discovery_rates_are_those_of_benjamini_and_hochberg():
    ps = np.array([0.01, 0.04, 0.03, 0.5])
    assert np.allclose(false_discovery(ps), [0.04, 0.16 / 3, 0.16 / 3, 0.5])


@pytest.mark.parametrize("auc", [0.0, 0.5, 0.8, 1.0])
def test_the_interval_of_an_auc_solves_newcombes_equation(auc):
    low, high = (float(one[0]) for one in auc_interval(np.array([auc]), 20, 30))
    assert 0 <= low <= auc <= high <= 1
    for a in (low, high):
        if 1e-9 < a < 1 - 1e-9:
            variance = a * (1 - a) * (1 + 24 * (1 - a) / (2 - a) + 24 * a / (1 + a)) / 600
            assert (a - auc) ** 2 == pytest.approx(1.959963984540054**2 * variance, rel=1e-6)
    assert high - low > 0.05


def test_prompts_needed_are_the_fewest_that_can_reach_a_level():
    assert prompts_needed(0.05) == 4  # 2 / 70 is below 0.05, 2 / 20 is not
    assert prompts_needed(0.05, 30_000) == 12


def test_strata_hold_prompts_of_similar_length_of_both_sets_and_no_prompt_twice():
    rng = np.random.default_rng(2)
    lengths = np.concatenate([rng.integers(30, 80, 60), rng.integers(10, 50, 60)])
    first = halves(60)
    strata = length_strata(lengths, first)
    used = np.concatenate(strata)
    assert len(strata) > 3
    assert len(set(used.tolist())) == len(used)
    for group in strata:
        assert min(first[group].sum(), (~first[group]).sum()) >= 2
        assert lengths[group].max() <= max(1.25 * lengths[group].min(), lengths[group].min() + 2)
    assert set(np.flatnonzero(lengths > 60)).isdisjoint(used)  # none of the second set is as long
    assert [len(one) for one in length_strata(np.full(120, 7), first)] == [120]


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_pooling_over_the_tokens_that_count(pool):
    fired = Fired(np.array([4, 1, 4]), np.array([1.0, 3.0, 5.0]), np.array([0, 0, 2]), 4)
    latents, values, counts = by_latent(fired, pool)
    assert latents.tolist() == [1, 4]
    assert values.tolist() == ([3.0, 5.0] if pool == "max" else [0.75, 1.5])
    assert counts.tolist() == [1, 2]
    nothing = Fired(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0, dtype=np.int64), 2)
    both = pooled([fired, nothing], 6, pool)
    assert both.dense(np.array([1, 4, 5])).tolist() == [[*values, 0.0], [0.0, 0.0, 0.0]]
    assert both.density.tolist() == pytest.approx([0, 1 / 6, 0, 0, 2 / 6, 0])


def test_without_a_difference_p_values_are_uniform_and_nothing_is_found():
    ps, found, d = [], 0, 150
    for seed in range(8):
        rng = np.random.default_rng(seed)
        prompts = drawn(rng, rng.integers(20, 40, 80), 10 ** rng.uniform(-1.5, -0.5, d))
        result = contrast(pooled(prompts, d, "mean"), halves(40), ContrastConfig(seed=seed))
        ps.append(result.p)
        found += bool((result.q <= 0.05).any())
    every = np.concatenate(ps)
    assert len(every) > 1000
    for level in (0.05, 0.2, 0.5, 0.8):
        assert abs((every <= level).mean() - level) < 0.045, level
    assert found <= 1


def test_planted_latents_are_found_at_the_stated_rate_of_false_ones():
    d, planted = 200, set(range(30))
    shares, recovered = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        prompts = drawn(
            rng, rng.integers(15, 30, 120), np.full(d, 0.05),
            lambda number, rng=rng: [p for p in planted if number < 60 and rng.random() < 0.7],
        )  # fmt: skip
        result = contrast(pooled(prompts, d, "max"), halves(60), ContrastConfig(seed=seed))
        found = result.latents[result.order(0.05)].tolist()
        shares.append(len(set(found) - planted) / max(1, len(found)))
        recovered.append(len(planted & set(found)) / len(planted))
        held = result.held_auc[np.isin(result.latents, list(planted))]
        assert 0.7 < held.mean() < 0.95
    assert np.mean(shares) <= 0.05
    assert min(recovered) > 0.95


def test_a_latent_that_fires_more_only_because_prompts_are_longer_does_not_win():
    rng = np.random.default_rng(3)
    d, lengths = 100, np.concatenate([rng.integers(30, 60, 80), rng.integers(15, 45, 80)])
    density = 10 ** rng.uniform(-2, -1, d)
    prompts = drawn(rng, lengths, density, lambda number: [99] if number < 80 and number % 4 else [])
    matrix, first = pooled(prompts, d, "max"), halves(80)
    naive = mannwhitneyu(matrix.dense(np.arange(99))[first], matrix.dense(np.arange(99))[~first]).pvalue
    assert (false_discovery(naive) <= 0.05).mean() > 0.2  # by length alone many would win
    result = contrast(matrix, first)
    assert result.latents[result.order(0.05)].tolist() == [99]
    assert abs(np.nanmean(result.held_auc[:-1]) - 0.5) < 0.05
    assert "none of their length" in result.notes[0]
    assert sum(result.unmatched) > 20


def test_of_two_latents_that_tell_as_much_the_rarer_one_wins():
    rng = np.random.default_rng(4)
    latents, values = [], []
    for number in range(80):
        yes = number < 40 and rng.random() < 0.8
        # 0 fires on every token, more strongly on the first set; 1 on one token of the first set alone
        latents.append([0] * 20 + [1] * yes)
        values.append([3.0 if yes else 1.0] + [0.5] * 19 + [1.0] * yes)
    prompts = [
        Fired(np.array(own), np.array(v), np.arange(len(own)) % 20, 20) for own, v in zip(latents, values, strict=True)
    ]
    by_rarity = contrast(pooled(prompts, 2, "max"), halves(40))
    by_effect = contrast(pooled(prompts, 2, "max"), halves(40), ContrastConfig(by_rarity=False))
    assert by_effect.auc[0] == by_effect.auc[1]
    assert by_effect.score[0] == by_effect.score[1]
    assert by_rarity.latents[by_rarity.order(0.05)].tolist() == [1, 0]
    assert by_rarity.score[0] == 0  # fires on everything: no news
    elsewhere = contrast(pooled(prompts, 2, "max"), halves(40), density=np.array([1e-3, 0.1]))
    assert elsewhere.latents[elsewhere.order(0.05)].tolist() == [0, 1]  # as the index's text has it


def test_held_out_prompts_do_not_flatter_what_was_chosen():
    rng = np.random.default_rng(5)
    d = 400
    prompts = drawn(rng, np.full(90, 20), np.full(d, 0.05))
    result = contrast(pooled(prompts, d, "max"), halves(45), ContrastConfig(fdr=1.0))
    best = np.argsort(-result.auc)[:20]
    assert result.auc[best].mean() > 0.64
    assert abs(result.held_auc[best].mean() - 0.5) < 0.05
    assert result.n == (30, 30)
    assert result.n_held == (15, 15)


def test_a_planted_latent_comes_first_again_on_other_splits_and_noise_does_not():
    rng = np.random.default_rng(9)
    prompts = drawn(
        rng, rng.integers(15, 30, 80), np.full(120, 0.05),
        lambda number: [p for p in range(4) if number < 40 and rng.random() < 0.7],
    )  # fmt: skip
    matrix = pooled(prompts, 120, "max")
    result = contrast(matrix, halves(40))
    again = dict(zip(result.latents.tolist(), result.stable.tolist(), strict=True))
    assert [again[p] for p in range(4)] == [1.0] * 4
    noise = np.array([again[one] for one in again if one >= 4])
    assert np.isnan(noise[result.score[4:] <= 0]).all()  # they are not among what is ranked
    assert np.nanmax(noise) < 1
    # in each re-split the first ten are counted, so the shares of all add up to ten
    assert np.nansum(result.stable) == pytest.approx(10)
    assert np.isnan(contrast(matrix, halves(40), ContrastConfig(resplits=0)).stable).all()
    none = contrast(matrix, halves(40), ContrastConfig(held_out_frac=0.0))
    assert np.isnan(none.stable).all()
    assert np.isnan(none.held_auc).all()


def test_results_depend_on_the_seed_alone():
    rng = np.random.default_rng(6)
    matrix = pooled(drawn(rng, rng.integers(10, 30, 60), np.full(30, 0.1)), 30, "max")
    one, two = (contrast(matrix, halves(30), ContrastConfig(seed=7)) for _ in range(2))
    assert np.array_equal(one.p, two.p)
    assert np.array_equal(one.held_auc, two.held_auc, equal_nan=True)


def test_small_sets_are_used_whole_and_told_what_they_cannot_show():
    rng = np.random.default_rng(7)
    matrix = pooled(drawn(rng, np.full(10, 20), np.full(40, 0.3)), 40, "max")
    result = contrast(matrix, halves(5))
    assert np.isnan(result.held_auc).all()
    assert np.isnan(result.stable).all()
    assert "needs them all" in result.notes[0]
    assert "each set needs about 7 prompts" in result.notes[1]


def test_too_little_to_test_on_is_an_error_that_says_how_much_is_needed():
    rng = np.random.default_rng(8)
    matrix = pooled(drawn(rng, np.full(8, 20), np.full(5, 0.5)), 5, "max")
    with pytest.raises(DataError, match="at least 4 prompts in each set, got 3 and 5"):
        contrast(matrix, np.arange(8) < 3)
    with pytest.raises(DataError, match="Both sets need prompts: got 0 and 8"):
        contrast(matrix, np.zeros(8, dtype=bool))
    apart = pooled(drawn(rng, [10] * 10 + [40] * 10, np.full(5, 0.5)), 5, "max")
    with pytest.raises(DataError, match="10 to 10 and 40 to 40 tokens"):
        contrast(apart, halves(10))
    silent = pooled(drawn(rng, np.full(20, 10), np.zeros(5)), 5, "max")
    with pytest.raises(DataError, match="No latent fires on enough"):
        contrast(silent, halves(10))


@pytest.mark.parametrize(
    "given",
    [
        {"permutations": 999},
        {"permutations": 10**11},
        {"fdr": 0},
        {"fdr": 2.0},
        {"held_out_frac": 0.6},
        {"seed": -1},
        {"resplits": -1},
        {"resplits": 10**11},
    ],
)
def test_settings_that_cannot_be_are_refused(given):
    with pytest.raises(DataError, match=next(iter(given))):
        ContrastConfig(**given)
