"""Where a small slip would go unnoticed: unused places of a code, few dead latents, short schedules."""

import torch

from saes import SparseCodes
from saes.losses import auxk, fvu
from saes.schedule import lr_factor
from tests.conftest import random_sae


def test_places_without_a_value_are_not_active():
    codes = SparseCodes(torch.tensor([[0, 3], [1, 2]]), torch.tensor([[1.0, 0.0], [0.5, 2.0]]), 4)
    assert codes.active().tolist() == [1, 2]
    assert codes.to_dense().tolist() == [[1.0, 0.0, 0.0, 0.0], [0.0, 0.5, 2.0, 0.0]]


def test_a_single_dead_latent_learns_and_fewer_latents_than_asked_for_are_taken():
    sae, residual = random_sae(), torch.randn(40, 32)
    pre = sae.pre_activations(torch.randn(40, 32))
    one, every = torch.arange(96) == 5, torch.ones(96, dtype=torch.bool)
    torch.testing.assert_close(auxk(residual, pre, one, sae.W_dec, 16), fvu(residual, pre[:, 5:6] * sae.W_dec[5]))
    torch.testing.assert_close(auxk(residual, pre, every, sae.W_dec, 200), fvu(residual, pre @ sae.W_dec))


def test_a_warmup_or_decay_of_one_step_is_over_at_once():
    assert lr_factor(0, 10, 0.1, 0.1) == lr_factor(9, 10, 0.1, 0.1) == 1
    assert lr_factor(0, 10, 0.0, 0.0) == lr_factor(9, 10, 0.0, 0.0) == 1
    assert lr_factor(0, 10, 0.2, 0.2) == lr_factor(9, 10, 0.2, 0.2) == 0.5
