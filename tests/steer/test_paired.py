"""Paired comparison: McNemar's exact test, the bootstrap over clusters, Holm."""

from itertools import product

import numpy as np
import pytest

from steer.errors import DataError
from steer.evals.paired import exchanged_p, holm, mcnemar_exact, paired


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(25, 10, 0.017), (15, 5, 0.041), (12, 4, 0.077), (6, 0, 0.03125), (5, 0, 0.0625), (0, 0, 1.0), (3, 3, 1.0)],
)
def test_mcnemar_by_published_values(gained, lost, p):
    assert mcnemar_exact(gained, lost) == pytest.approx(p, abs=5e-4)
    assert mcnemar_exact(lost, gained) == mcnemar_exact(gained, lost)


def test_pairs_are_counted_and_bounded():
    base, other = [0.0] * 60 + [1.0] * 40, [1.0] * 25 + [0.0] * 35 + [0.0] * 10 + [1.0] * 30
    found = paired(base, other, range(100))
    assert (found.n, found.gained, found.lost) == (100, 25, 10)
    assert found.difference == pytest.approx(0.15)
    assert found.p == mcnemar_exact(25, 10)
    half = 1.96 * np.std(np.subtract(other, base)) / 10  # of a paired difference
    assert found.low == pytest.approx(0.15 - half, abs=0.012)
    assert found.high == pytest.approx(0.15 + half, abs=0.012)


def test_clusters_widen_the_interval_and_raise_p():
    base = [0.0] * 40
    other = [1.0] * 12 + [0.0] * 28
    alone, together = paired(base, other, range(40)), paired(base, other, [i // 4 for i in range(40)])
    assert together.high - together.low > 1.5 * (alone.high - alone.low)
    assert together.p > alone.p
    assert together.difference == alone.difference


def test_scores_that_are_not_counts_are_x():
    rng = np.random.default_rng(0)
    base = rng.random(200)
    same = paired(list(base), list(base + rng.normal(0, 0.1, 200)), range(200))
    better = paired(list(base), list(base + 0.05 + rng.normal(0, 0.1, 200)), range(200))
    assert same.low < 0 < same.high
    assert same.p > 0.05
    assert better.low > 0
    assert better.p < 0.001


def test_p_is_uniform_where_nothing_changed():
    rng = np.random.default_rng(1)
    differences = [rng.normal(0, 1, 80) for _ in range(200)]
    ps = [exchanged_p(one, range(80), seed) for seed, one in enumerate(differences)]
    assert paired([0.0] * 80, list(differences[3]), range(80), seed=3).p == ps[3]
    assert 0.01 <= np.mean(np.array(ps) < 0.05) <= 0.10


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_few_clusters_that_change_together_are_no_evidence(count):
    """Whole clusters turn one way or the other by chance; more than one in twenty is never called a finding."""
    rng, found = np.random.default_rng(count), []
    for _ in range(300):
        signs = rng.choice([-1, 1], count)
        base = [float(sign < 0 and rng.random() < 0.8) for sign in signs for _ in range(12)]
        other = [float(sign > 0 and rng.random() < 0.8) for sign in signs for _ in range(12)]
        found.append(paired(base, other, [i // 12 for i in range(12 * count)]).p)
    assert np.mean(np.array(found) <= 0.05) <= 0.07
    assert min(found) >= 2 / 2**count


def test_exchanging_single_counts_is_mcnemars_test():
    for gained, lost in product(range(7), range(6)):
        differences = np.array([1.0] * gained + [-1.0] * lost + [0.0] * 3)
        assert exchanged_p(differences, range(len(differences))) == pytest.approx(mcnemar_exact(gained, lost))


def test_many_clusters_are_exchanged_at_random_and_agree_with_all_exchanges():
    values = np.random.default_rng(2).normal(0.4, 1, 18)
    signs = np.array(list(product([1, -1], repeat=18)))
    exact = np.mean(np.abs(signs @ values) >= abs(values.sum()) - 1e-9)
    assert exchanged_p(values, range(18)) == pytest.approx(exact, abs=0.015)


def test_one_cluster_has_no_interval_and_is_no_evidence():
    found = paired([0.0] * 20, [1.0] * 20, ["a"] * 20)
    assert found.low is found.high is None
    assert found.p == 1.0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_lists_of_different_length_are_refused():
    with pytest.raises(DataError, match="got 1, 2 and 1"):
        paired([1.0], [1.0, 0.0], ["a"])
