"""Gemma Scope 1: fixtures as released, compared with its formulas in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch

import saes
from saes import ConfigError
from tests.saes.formats.oracle import D_IN, D_SAE, agree, back, inputs, jump, made, random, same


def write(folder: Path) -> Path:
    arrays = random()
    names = {"w_enc": "W_enc", "w_dec": "W_dec", "b_enc": "b_enc", "b_dec": "b_dec", "threshold": "threshold"}
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **{theirs: arrays[ours].numpy() for theirs, ours in names.items()})
    return folder


def theirs(folder: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(folder / "params.npz") as arrays:
        w = {name: torch.from_numpy(arrays[name]).double() for name in arrays.files}
    latents = jump(x.double() @ w["w_enc"] + w["b_enc"], w["threshold"])
    return latents, latents @ w["w_dec"] + w["b_dec"]


@pytest.mark.parametrize(
    ("path", "model", "site", "site_out"),
    [
        ("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", "google/gemma-2-2b", "20.resid_post", None),
        ("gemma-scope-9b-it-res/layer_9/width_16k/average_l0_88", "google/gemma-2-9b-it", "9.resid_post", None),
        ("gemma-scope-2b-pt-mlp/layer_3/width_16k/average_l0_7", "google/gemma-2-2b", "3.mlp_out", None),
        ("gemma-scope-2b-pt-att/layer_3/width_16k/average_l0_7", "google/gemma-2-2b", "blocks.3.attn.hook_z", None),
        ("google--gemma-scope-2b-pt-transcoders/1/layer_3/width_16k/x", "google/gemma-2-2b", None, "3.mlp_out"),
        ("layer_20/width_16k/average_l0_71", None, None, None),
    ],
)
def test_the_path_tells_model_and_site(tmp_path, path, model, site, site_out):
    folder = write(tmp_path / path)
    for at in (folder, folder / "params.npz"):
        sae = saes.load(at)
        agree(sae, inputs(), *theirs(folder, inputs()))
        assert (sae.config.model, sae.config.site, sae.config.site_out) == (model, site, site_out)
    assert saes.load(folder, model="mine", site="0.resid_pre").config.site == "0.resid_pre"


def test_embedding_saes_read_scaled_embeddings(tmp_path):
    folder = write(tmp_path / "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6")
    sae = saes.load(folder)
    assert sae.config.site == "hook_embed"
    latents, _ = theirs(folder, inputs() / D_IN**0.5)
    agree(sae, inputs(), latents, latents @ random()["W_dec"].double() * D_IN**0.5 + random()["b_dec"])


@pytest.mark.parametrize("activation", ["jumprelu", "batch_topk", "relu"])
@pytest.mark.parametrize("subtract", [True, False])
def test_round_trip(tmp_path, activation, subtract):
    sae = made(activation, subtract_b_dec=subtract)
    again = back(sae, tmp_path, "gemma_scope")
    same(sae, again)
    assert again.config.activation == "jumprelu"
    assert again.threshold.shape == (D_SAE,)
    agree(sae, inputs(), *theirs(tmp_path, inputs()))


def test_what_it_has_no_form_for_is_not_written(tmp_path):
    for activation, config in (
        ("topk", {}),
        ("relu", {"input_norm": "layer_norm"}),
        ("relu", {"subtract_b_dec": False, "skip": True}),
    ):
        with pytest.raises(ConfigError, match="Gemma Scope's format holds autoencoders with thresholds"):
            saes.save(made(activation, **config), tmp_path / "new", "gemma_scope")
    assert not (tmp_path / "new").exists()
