"""Probes and absorption against their definitions in plain numpy."""

import numpy as np
import pytest
import torch

from saes import ShapeError
from saes.metrics.absorption import absorbed, split_latents
from saes.metrics.logistic import f1_score, fit_logistic
from saes.metrics.sparse_probe import rank_by_l1_probe, rank_by_mean_difference


def two_classes(n=80, d=4):
    x = torch.randn(n, d) * torch.tensor([1.0, 3.0, 0.1, 1.0])[:d] + 2
    labels = (x[:, 0] + 0.3 * x[:, 1] + 0.5 * torch.randn(n)) > 2.9
    return x, labels


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("penalty", [1.0, 0.01])
def test_the_logistic_regression_is_the_minimum_of_its_loss(balanced, penalty):
    """At the minimum of a convex loss the gradient is zero; here it is written out once more, in numpy."""
    x, labels = two_classes()
    probe = fit_logistic(x, labels, balanced, penalty, standardise=False)
    a, y, w, b = x.double().numpy(), labels.numpy().astype(float), probe.weight.numpy(), probe.bias.item()
    weights = np.where(y == 1, len(y) / 2 / y.sum(), len(y) / 2 / (1 - y).sum()) if balanced else np.ones(len(y))
    p = 1 / (1 + np.exp(-(a @ w + b)))
    assert a.T @ (weights * (p - y)) + penalty * w == pytest.approx(np.zeros(4), abs=1e-5)
    assert (weights * (p - y)).sum() == pytest.approx(0, abs=1e-5)


def test_a_standardised_probe_does_not_depend_on_scale_and_place():
    x, labels = two_classes()
    one = fit_logistic(x, labels)
    other = fit_logistic(x * torch.tensor([100.0, 0.01, 1.0, 7.0]) - 5, labels)
    assert one.scores(x).numpy() == pytest.approx(
        other.scores(x * torch.tensor([100.0, 0.01, 1.0, 7.0]) - 5).numpy(), abs=1e-3
    )
    by_hand = fit_logistic((x - x.mean(0)) / x.std(0, correction=0), labels, standardise=False)
    assert one.scores(x).numpy() == pytest.approx(
        by_hand.scores((x - x.mean(0)) / x.std(0, correction=0)).numpy(), abs=1e-4
    )


def test_probes_of_odd_data():
    labels = torch.tensor([True] * 5 + [False] * 5)
    apart = torch.arange(10.0).flip(0).unsqueeze(1)
    assert ((fit_logistic(apart, labels).scores(apart) > 0) == labels).all()
    nothing = fit_logistic(torch.zeros(10, 3), labels)
    assert nothing.scores(torch.ones(1, 3)).item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ShapeError, match="both classes, got 10 of 10"):
        fit_logistic(apart, torch.ones(10, dtype=torch.bool))


def test_f1_by_hand():
    said = torch.tensor([True, True, False, False])
    assert f1_score(said, torch.tensor([True, False, True, False])) == 0.5  # precision 1/2, recall 1/2
    assert f1_score(said, said) == 1
    assert f1_score(said, ~said) == 0


def test_the_latents_of_a_class_are_found():
    codes = torch.relu(torch.randn(300, 40))
    labels = torch.zeros(300, 2, dtype=torch.bool)
    labels[:, 0], labels[:, 1] = codes[:, 7] > 1, codes[:, 21] > 1
    assert rank_by_mean_difference(codes, labels[:, 0], 3)[0] == 7
    means = codes[labels[:, 1]].double().mean(0) - codes[~labels[:, 1]].double().mean(0)
    assert set(rank_by_mean_difference(codes, labels[:, 1], 3).tolist()) == set(means.abs().topk(3).indices.tolist())
    ranked = rank_by_l1_probe(codes, labels, 5)
    assert ranked.shape == (2, 5)
    assert ranked[:, 0].tolist() == [7, 21]


@pytest.mark.parametrize(
    ("f1", "count"), [([0.5, 0.6, 0.7, 0.71, 0.9], 3), ([0.5, 0.52], 1), ([0.0, 0.0], 1), ([0.1, 0.2], 2)]
)
def test_a_split_goes_on_as_long_as_f1_rises(f1, count):
    assert split_latents(torch.arange(10, 10 + len(f1)), f1).tolist() == list(range(10, 10 + count))


def test_absorption_by_hand():
    """Three latents: the concept's own along the probe, an absorber at cosine 0.6 with it, and one across."""
    w_dec = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    direction, own = torch.tensor([2.0, 0.0]), torch.tensor([0])
    codes = torch.tensor(
        [
            [1.0, 0.0, 0.0],  # its own latent carries all
            [0.0, 1.0, 0.0],  # the absorber carries all
            [0.5, 1.0, 0.0],  # half and half: the absorber carries 0.6, of which 0.5 is missing
            [0.0, 0.3, 1.0],  # the absorber carries too little of it
            [0.0, 0.0, 1.0],  # nobody does
        ]
    )
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    found = absorbed(x, codes, w_dec, direction, own)
    assert found.fraction.tolist() == pytest.approx([0.0, 1.0, 0.5, 0.0, 0.0])
    assert found.full.tolist() == [False, True, False, False, False]
    longer = absorbed(
        x, codes / torch.tensor([1.0, 10.0, 1.0]), w_dec * torch.tensor([[1.0], [10.0], [1.0]]), direction, own
    )
    assert longer.fraction.tolist() == pytest.approx(found.fraction.tolist())
    assert longer.full.tolist() == found.full.tolist()


def reference(x, codes, w_dec, direction, own):
    """The same word by word, as the definition is stated (arXiv 2409.14507, and SAEBench's thresholds)."""
    direction = direction / np.linalg.norm(direction)
    cosine = w_dec @ direction / np.linalg.norm(w_dec, axis=-1)
    fractions, full = [], []
    for word, acts in zip(x, codes, strict=True):
        projection, parts = word @ direction, acts * (w_dec @ direction)
        main = parts[own].sum()
        others = sorted((p for i, p in enumerate(parts) if i not in own and cosine[i] >= 0.1 and p > 0), reverse=True)
        absorbing = sum(others[:3])
        if main >= projection or absorbing / projection < 0.4:
            fractions.append(0.0)
        elif main <= 0:
            fractions.append(1.0)
        else:
            taken = min(absorbing, projection - main)
            fractions.append(np.clip(taken / (taken + main), 0, 1))
        top = int(parts.argmax())
        full.append(
            bool(
                (acts[own] < 1e-8).all() and cosine[top] >= 0.025 and projection > 0 and parts[top] / projection >= 0.4
            )
        )
    return fractions, full


def test_absorption_equals_the_definition_word_by_word():
    codes = torch.relu(torch.randn(400, 24) - 0.8)
    w_dec, direction = torch.randn(24, 6), torch.randn(6)
    x = codes @ w_dec + 0.3 * torch.randn(400, 6)
    own = torch.tensor([3, 11])
    found = absorbed(x, codes, w_dec, direction, own)
    fractions, full = reference(*(t.double().numpy() for t in (x, codes, w_dec, direction)), own.tolist())
    assert found.fraction.tolist() == pytest.approx(fractions, abs=1e-4)
    assert found.full.tolist() == full
    assert 0.02 < np.mean(full) < 0.98
    assert len({round(one, 3) for one in fractions}) > 10
