"""Batches of activations are checked wherever they come in."""

import inspect

import pytest
import torch

import saes
from tests.conftest import D_MODEL, random_sae

untyped_measure = inspect.unwrap(saes.measure)
X = torch.randn(8, D_MODEL)


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        (X, r"shape \[token, 32\], got \[32\].*in"),
        ([X[:, :5]], r"got \[8, 5\]"),
        ([X[None]], r"got \[1, 8, 32\]"),
        ([X * float("nan")], "must be finite: 8 of 8"),
        ([X.to(torch.complex64)], "real numbers, got a tensor of torch.complex64"),
        ([[1.0]], "got list"),
    ],
)
def test_measuring_refuses_what_training_refuses(batches, words):
    with pytest.raises(saes.ShapeError, match=words):
        untyped_measure(random_sae(), batches)
