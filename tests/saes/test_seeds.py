"""Initial weights: what is tied, and that no two SAEs share random numbers."""

import dataclasses

import pytest
import torch

from saes import SAE, SAEConfig
from saes.kernels import kernels_for
from saes.optimisers import OPTIMISERS, Update
from saes.seeds import derived

PLAIN = SAEConfig(16, 48, 4)
CODER = dataclasses.replace(PLAIN, site="a", site_out="b", subtract_b_dec=False)
KINDS = {
    "autoencoder": PLAIN,
    "one width": CODER,
    "skip": dataclasses.replace(CODER, skip=True),
    "narrower": dataclasses.replace(CODER, d_out=12),
}


@pytest.mark.parametrize("seed", [0, 7, 2**62])
def test_an_autoencoder_is_tied_and_drawn_from_its_seed_alone(seed):
    sae = SAE(PLAIN, seed)
    drawn = torch.randn(48, 16, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(sae.W_dec, drawn / drawn.norm(dim=-1, keepdim=True))
    assert torch.equal(sae.W_enc, sae.W_dec.T)


@pytest.mark.parametrize("kind", ["one width", "skip", "narrower"])
def test_a_transcoder_reads_other_directions_than_it_writes(kind):
    sae = SAE(KINDS[kind], 3)
    torch.testing.assert_close(sae.W_enc.norm(dim=0), torch.ones(48))
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(48))
    if kind != "narrower":
        cosines = (sae.W_enc.T * sae.W_dec).sum(-1)
        assert cosines.abs().mean() < 0.35, "of random directions in 16 dimensions it is 0.2"
        assert torch.equal(sae.W_dec, SAE(PLAIN, 3).W_dec)


def test_saes_of_neighbouring_seeds_share_no_direction():
    rows = torch.cat([part for seed in range(6) for part in _drawn(seed)])
    cosines = rows @ rows.T - torch.eye(len(rows))
    assert cosines.max() < 0.99


def _drawn(seed):
    coder = SAE(KINDS["one width"], seed)
    return coder.W_dec.detach(), coder.W_enc.detach().T


def test_derived_seeds_are_seeds_and_differ():
    found = {derived(seed, purpose) for seed in range(100) for purpose in ("W_enc", "other")}
    found |= {derived(0, "rounding", number) for number in range(100)}
    assert len(found) == 300
    assert all(2**32 < seed < 2**63 for seed in found)
    assert derived(0, "W_enc") == derived(0, "W_enc")


def test_random_rounding_is_of_the_seed_and_the_step():
    def rounded(seed, number):
        p, grad = torch.ones(64, 8), torch.linspace(0, 1, 512).view(64, 8)
        optimiser = OPTIMISERS["adam_bf16"]
        state = optimiser.state(p)
        optimiser.update_(p, grad, state, Update(kernels_for(p.device), 0.1, number, 1.0, seed, 0.999), project=False)
        return state["mean"]

    assert torch.equal(rounded(0, 3), rounded(0, 3))
    assert not torch.equal(rounded(0, 3), rounded(1, 3))
    assert not torch.equal(rounded(0, 3), rounded(2**31, 3)), "which once were the same"
