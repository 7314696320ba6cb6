"""Gemma Scope 2: fixtures as released, compared with its formulas in float64."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import saes
from saes import ConfigError, FormatError
from tests.saes.formats.oracle import D_SAE, agree, inputs, jump, made, random

NAMES = {"w_enc": "W_enc", "w_dec": "W_dec", "b_enc": "b_enc", "b_dec": "b_dec", "threshold": "threshold"}


def write(folder: Path, skip: bool = False, d_out: int | None = None, **settings) -> None:
    a = random(d_out=d_out)
    weights = {name: a[ours] for name, ours in NAMES.items()} | (
        {"affine_skip_connection": a["W_skip"]} if skip else {}
    )
    save_file(weights, folder / "params.safetensors")
    config = {"architecture": "jump_relu", "model_name": "google/gemma-3-1b-pt", "width": D_SAE, "l0": 60}
    hook = {"hf_hook_point_in": "model.layers.12.output", "hf_hook_point_out": "model.layers.12.output"}
    (folder / "config.json").write_text(json.dumps(config | hook | {"affine_connection": skip} | settings))


def theirs(x: torch.Tensor, skip: bool = False, d_out: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    a, x = {name: tensor.double() for name, tensor in random(d_out=d_out).items()}, x.double()
    latents = jump(x @ a["W_enc"] + a["b_enc"], a["threshold"])
    output = latents @ a["W_dec"] + a["b_dec"]
    return latents, output + x @ a["W_skip"] if skip else output


def test_an_sae(tmp_path):
    write(tmp_path)
    sae = saes.load(tmp_path)
    agree(sae, inputs(), *theirs(inputs()))
    assert (sae.config.site, sae.config.site_out) == ("12.resid_post", None)
    assert sae.config.model == "google/gemma-3-1b-pt"
    (tmp_path / "config.json").unlink()  # some releases have none
    agree(saes.load(tmp_path), inputs(), *theirs(inputs()))


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("d_out", [None, 7])
def test_a_transcoder(tmp_path, skip, d_out):
    entering = "model.layers.12.pre_feedforward_layernorm.output"
    leaving = "model.layers.12.post_feedforward_layernorm.output"
    write(tmp_path, skip, d_out, hf_hook_point_in=entering, hf_hook_point_out=leaving)
    sae = saes.load(tmp_path)
    agree(sae, inputs(), *theirs(inputs(), skip, d_out))
    assert (sae.config.site, sae.config.site_out) == (entering, "12.mlp_out")


def test_attention_saes_keep_the_name_of_their_place(tmp_path):
    hook = "model.layers.12.self_attn.o_proj.input"
    write(tmp_path, hf_hook_point_in=hook, hf_hook_point_out=hook)
    assert saes.load(tmp_path).config.site == hook


def test_what_cannot_be_read_rightly_is_refused(tmp_path):
    write(tmp_path, affine_connection=True)
    with pytest.raises(FormatError, match=r"says affine_connection True, but params\.safetensors lacks affine_skip"):
        saes.load(tmp_path)
    write(tmp_path, architecture="topk")
    with pytest.raises(FormatError, match="architecture is 'topk'"):
        saes.load(tmp_path)
    write(tmp_path)
    a = random()
    weights = {name: a[ours] for name, ours in NAMES.items()} | {"w_dec": torch.zeros(D_SAE, 3, 12)}
    save_file(weights, tmp_path / "params.safetensors")
    with pytest.raises(FormatError, match=r"w_dec has shape \[40, 3, 12\].*cross-layer"):
        saes.load(tmp_path)


def test_it_is_read_only(tmp_path):
    with pytest.raises(ConfigError, match=r"gemma_scope_2 is read only\. Written are saes, saelens"):
        saes.save(made("jumprelu"), tmp_path / "new", "gemma_scope_2")
    assert not (tmp_path / "new").exists()
