"""Llamascopium: fixtures as the library writes them, compared with its formulas in float64."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import saes
from saes import FormatError
from tests.saes.formats.oracle import D_IN, D_SAE, K, agree, inputs, jump, random, topk

HOOK = "blocks.15.hook_resid_post"
NORM_IN, NORM_OUT = 10.0, 4.0
SETTINGS = {
    "sae_type": "sae",
    "hook_point_in": HOOK,
    "hook_point_out": HOOK,
    "d_model": D_IN,
    "expansion_factor": D_SAE / D_IN,
    "use_decoder_bias": True,
    "act_fn": "jumprelu",
    "norm_activation": "dataset-wise",
    "sparsity_include_decoder_norm": True,
    "top_k": K,
    "use_glu_encoder": False,
    "jumprelu_threshold_window": 2.0,
}


def write(folder: Path, suffix: str = "safetensors", earlier: bool = False, stated: bool = True, **settings) -> dict:
    """A folder in today's layout, or in the earlier one of linear layers; and its weights."""
    a, config = random(), SETTINGS | settings
    log = a["threshold"].log()
    if earlier:
        weights = {"encoder.weight": a["W_enc"].T, "decoder.weight": a["W_dec"].T}
        weights |= {"encoder.bias": a["b_enc"], "decoder.bias": a["b_dec"]}
    else:
        weights = {"W_E": a["W_enc"], "W_D": a["W_dec"], "b_E": a["b_enc"], "b_D": a["b_dec"]}
    if config["act_fn"] == "jumprelu":
        weights["log_jumprelu_threshold" if earlier else "activation_function.log_jumprelu_threshold"] = log
    if stated:
        weights[f"dataset_average_activation_norm.{HOOK}"] = torch.tensor(NORM_IN)
        weights["dataset_average_activation_norm.blocks.15.hook_mlp_out"] = torch.tensor(NORM_OUT)
    weights = {name: tensor.contiguous() for name, tensor in weights.items()}
    if suffix == "safetensors":
        save_file(weights, folder / "sae_weights.safetensors")
    else:
        torch.save({"sae": weights, "version": "2.0.0"}, folder / "sae_weights.pt")
    (folder / "config.json").write_text(json.dumps(config))
    return {name: tensor.double() for name, tensor in a.items()}


def theirs(a: dict, x: torch.Tensor, s: float = D_IN**0.5 / NORM_IN, by_norm: bool = True) -> torch.Tensor:
    """The library's encode of normalised activations, with JumpReLU."""
    norms = a["W_dec"].norm(dim=-1) if by_norm else 1.0
    return jump((s * x.double() @ a["W_enc"] + a["b_enc"]) * norms, a["threshold"]) / norms


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("earlier", [True, False])
@pytest.mark.parametrize("by_norm", [True, False])
def test_latents_and_output_on_raw_activations(tmp_path, suffix, earlier, by_norm):
    a = write(tmp_path, suffix, earlier, sparsity_include_decoder_norm=by_norm)
    sae, s = saes.load(tmp_path), D_IN**0.5 / NORM_IN
    latents = theirs(a, inputs(), by_norm=by_norm)
    agree(sae, inputs(), latents, (latents @ a["W_dec"] + a["b_dec"]) / s)
    assert (sae.config.site, sae.config.input_scale) == ("15.resid_post", pytest.approx(s))


def test_a_factor_that_is_not_in_the_file_has_to_be_given(tmp_path):
    """As for Llama Scope R1-Distill."""
    a = write(tmp_path, earlier=True, stated=False)
    with pytest.raises(FormatError, match=f"dataset_average_activation_norm.{HOOK} is missing"):
        saes.load(tmp_path)
    latents = theirs(a, inputs(), s=0.2)
    agree(saes.load(tmp_path, input_scale=0.2), inputs(), latents, (latents @ a["W_dec"] + a["b_dec"]) / 0.2)


def test_a_transcoder_scales_its_output_by_its_own_norm(tmp_path):
    a = write(tmp_path, hook_point_out="blocks.15.hook_mlp_out")
    sae = saes.load(tmp_path)
    latents = theirs(a, inputs())
    agree(sae, inputs(), latents, (latents @ a["W_dec"] + a["b_dec"]) / (D_IN**0.5 / NORM_OUT))
    assert sae.config.site_out == "15.mlp_out"


def test_the_inference_mode_scales_nothing(tmp_path):
    """Its norms may be anything: the library writes what happens to lie in memory."""
    a = write(tmp_path, norm_activation="inference")
    latents = theirs(a, inputs(), s=1.0)
    agree(saes.load(tmp_path), inputs(), latents, latents @ a["W_dec"] + a["b_dec"])


def test_topk_by_decoder_norm_is_folded_into_the_rows(tmp_path):
    """Latents take on the norms; which of them are active, and the output, stay."""
    a, x = write(tmp_path, act_fn="topk", norm_activation="token-wise"), inputs().double()
    s, norms = D_IN**0.5 / x.norm(dim=-1, keepdim=True), a["W_dec"].norm(dim=-1)
    latents = topk((s * x @ a["W_enc"] + a["b_enc"]) * norms, K)
    agree(saes.load(tmp_path), x, latents, (latents / norms @ a["W_dec"] + a["b_dec"]) / s)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"act_fn": "batchtopk"}, "act_fn is 'batchtopk', which has no exact form"),
        ({"sae_type": "clt"}, "sae_type is 'clt'"),
        ({"use_glu_encoder": True}, "use_glu_encoder is true"),
        ({"norm_activation": "batch-wise"}, "norm_activation is 'batch-wise'"),
        ({"norm_activation": "token-wise", "hook_point_out": "x"}, "transcoder with norm_activation 'token-wise'"),
        ({"hook_point_out": "x"}, r"dataset_average_activation_norm\.x is missing"),
        ({"d_model": 13}, r"tensor W_E has shape \[12, 40\], expected \[13, 43\]"),
    ],
)
def test_what_cannot_be_read_rightly_is_refused(tmp_path, settings, words):
    write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS | settings))
    with pytest.raises(FormatError, match=words):
        saes.load(tmp_path)


def test_sharded_weights_are_refused_with_the_way_out(tmp_path):
    write(tmp_path)
    (tmp_path / "sae_weights.safetensors").rename(tmp_path / "sae_weights.dcp")
    with pytest.raises(FormatError, match=r"Sharded weights \(sae_weights.dcp\) are not read"):
        saes.load(tmp_path)
