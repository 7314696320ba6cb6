"""Llama Scope: fixtures as released, compared with its formulas in float64."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import saes
from saes import ConfigError, FormatError
from tests.saes.formats.oracle import D_IN, D_SAE, K, agree, back, inputs, jump, made, random, same, topk

NORM_IN, NORM_OUT = 10.0, 4.0
SETTINGS = {
    "hook_point_in": "blocks.15.hook_resid_post",
    "hook_point_out": "blocks.15.hook_resid_post",
    "use_decoder_bias": True,
    "apply_decoder_bias_to_pre_encoder": False,
    "expansion_factor": 8,
    "d_model": D_IN,
    "d_sae": D_SAE,
    "act_fn": "jumprelu",
    "jump_relu_threshold": 0.35,
    "norm_activation": "dataset-wise",
    "dataset_average_activation_norm": {"in": NORM_IN, "out": NORM_IN},
    "sparsity_include_decoder_norm": True,
    "use_glu_encoder": False,
    "top_k": K,
}
LINEAR = {"encoder.weight": "W_enc", "decoder.weight": "W_dec", "encoder.bias": "b_enc", "decoder.bias": "b_dec"}


def write(folder: Path, unit_rows: bool = True, **settings) -> dict[str, torch.Tensor]:
    a = random()
    if unit_rows:
        a["W_dec"] = torch.nn.functional.normalize(a["W_dec"], dim=-1)
    (folder / "checkpoints").mkdir(exist_ok=True)
    save_file(
        {name: (a[ours].T if a[ours].ndim == 2 else a[ours]).contiguous() for name, ours in LINEAR.items()},
        folder / "checkpoints" / "final.safetensors",
    )
    (folder / "hyperparams.json").write_text(json.dumps(SETTINGS | settings))
    return {name: tensor.double() for name, tensor in a.items()}


def test_scale_and_threshold_are_folded_together(tmp_path):
    """With the threshold unscaled, L0 comes out far too high (SAELens PR 482)."""
    a, x = write(tmp_path), inputs().double()
    s = D_IN**0.5 / NORM_IN
    latents = jump(s * x @ a["W_enc"] + a["b_enc"], 0.35 * s)
    for path in (tmp_path, tmp_path / "checkpoints" / "final.safetensors", tmp_path / "hyperparams.json"):
        sae = saes.load(path)
        agree(sae, x, latents, (latents @ a["W_dec"] + a["b_dec"]) / s)
    assert torch.equal(sae.encode(x.float()).active(), (latents > 0).sum(-1).float())
    assert (sae.config.site, sae.config.site_out, sae.config.input_scale) == ("15.resid_post", None, s)


def test_the_library_s_own_way_on_raw_activations_has_the_same_l0_and_output(tmp_path):
    """It divides biases by s, multiplies W_dec with s_in / s_out, and gives rows norm 1; its latents are 1 / s of "
    "ours."""
    a, x = write(tmp_path, unit_rows=False), inputs().double()
    s, norms = D_IN**0.5 / NORM_IN, a["W_dec"].norm(dim=-1)
    latents = jump((x @ a["W_enc"] + a["b_enc"] / s) * norms, 0.35)
    sae = saes.load(tmp_path)
    agree(sae, x, latents * s / norms, latents @ (a["W_dec"] / norms[:, None]) + a["b_dec"] / s)


def test_a_transcoder_scales_its_output_by_its_own_norm(tmp_path):
    norms = {"in": NORM_IN, "out": NORM_OUT}
    settings = {"hook_point_out": "blocks.15.hook_mlp_out", "dataset_average_activation_norm": norms}
    a, x = write(tmp_path, **settings), inputs().double()
    s_in, s_out = D_IN**0.5 / NORM_IN, D_IN**0.5 / NORM_OUT
    # as the library makes it raw: rows for raw outputs have norm s_in / s_out, and latents times that are compared
    raw = x @ a["W_enc"] + a["b_enc"] / s_in
    latents = s_in * raw.relu() * (raw * s_in / s_out > 0.35)
    sae = saes.load(tmp_path)
    agree(sae, x, latents, (latents @ a["W_dec"] + a["b_dec"]) / s_out)
    assert (sae.config.site, sae.config.site_out) == ("15.resid_post", "15.mlp_out")


def test_other_activations_and_normalisations(tmp_path):
    a, x = write(tmp_path, act_fn="relu", norm_activation="token-wise", use_decoder_bias=True), inputs().double()
    s = D_IN**0.5 / x.norm(dim=-1, keepdim=True)
    latents = (s * x @ a["W_enc"] + a["b_enc"]).relu()
    agree(saes.load(tmp_path), x, latents, (latents @ a["W_dec"] + a["b_dec"]) / s)

    write(tmp_path, act_fn="topk", jump_relu_threshold=0.0, norm_activation="inference")
    latents = topk(x @ a["W_enc"] + a["b_enc"], K)
    agree(saes.load(tmp_path), x, latents, latents @ a["W_dec"] + a["b_dec"])

    subtracted = {"apply_decoder_bias_to_pre_encoder": True, "act_fn": "relu", "norm_activation": "dataset-wise"}
    write(tmp_path, **subtracted)
    s = D_IN**0.5 / NORM_IN
    latents = ((s * x - a["b_dec"]) @ a["W_enc"] + a["b_enc"]).relu()
    agree(saes.load(tmp_path), x, latents, (latents @ a["W_dec"] + a["b_dec"]) / s)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dataset_average_activation_norm": None}, "dataset_average_activation_norm is missing"),
        ({"dataset_average_activation_norm": {"in": 5.0}, "hook_point_out": "x"}, "average_activation_norm is missing"),
        ({"dataset_average_activation_norm": {"in": 0.0}}, "gives an input scale of 0"),
        ({"norm_activation": "batch-wise"}, "norm_activation is 'batch-wise', which has no exact form"),
        ({"use_glu_encoder": True}, "use_glu_encoder is true"),
        ({"act_fn": "gelu"}, "act_fn is 'gelu'"),
        ({"jump_relu_threshold": None}, "lacks jump_relu_threshold"),
        ({"d_sae": 41}, r"tensor encoder.weight has shape \[40, 12\], expected \[41, 12\]"),
        ({"use_decoder_bias": False}, "holds the tensor decoder.bias"),
    ],
)
def test_what_cannot_be_read_rightly_is_refused(tmp_path, settings, words):
    write(tmp_path, **settings)
    with pytest.raises(FormatError, match=words):
        saes.load(tmp_path)


@pytest.mark.parametrize("norm", ["none", "constant_norm"])
@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("activation", ["batch_topk", "relu", "topk"])
def test_round_trip(tmp_path, activation, subtract, norm):
    sae = made(activation, subtract_b_dec=subtract, input_norm=norm)
    again = back(sae, tmp_path, "llama_scope")
    same(sae, again)
    for field in ("model", "site", "subtract_b_dec", "input_norm"):
        assert getattr(again.config, field) == getattr(sae.config, field)


def test_what_is_written_gives_the_same_numbers_by_saelens_reading_of_it(tmp_path):
    """SAELens folds s = sqrt(d_in) / norm and multiplies the threshold by it."""
    sae = made("batch_topk", subtract_b_dec=False)
    saes.save(sae, tmp_path, "llama_scope")
    config = json.loads((tmp_path / "hyperparams.json").read_text())
    w = {name: tensor.double() for name, tensor in load_file(tmp_path / "checkpoints" / "final.safetensors").items()}
    s = config["d_model"] ** 0.5 / config["dataset_average_activation_norm"]["in"]
    pre = inputs().double() @ (s * w["encoder.weight"].T) + w["encoder.bias"]
    latents = jump(pre, config["jump_relu_threshold"] * s)
    agree(sae, inputs(), latents, latents @ w["decoder.weight"].T / s + w["decoder.bias"] / s)


def test_a_transcoder_is_written_with_both_hooks(tmp_path):
    sae = made("batch_topk", subtract_b_dec=False, site_out="1.mlp_out")
    again = back(sae, tmp_path, "llama_scope")
    same(sae, again)
    assert (again.config.site, again.config.site_out) == ("1.resid_post", "1.mlp_out")


def test_what_it_has_no_form_for_is_not_written(tmp_path):
    for activation, config in (
        ("jumprelu", {}),
        ("relu", {"input_norm": "layer_norm"}),
        ("relu", {"subtract_b_dec": False, "skip": True}),
        ("relu", {"subtract_b_dec": False, "d_out": 7}),
    ):
        with pytest.raises(ConfigError, match="Llama Scope's format holds SAEs with one threshold for all latents"):
            saes.save(made(activation, **config), tmp_path / "new", "llama_scope")
    assert not (tmp_path / "new").exists()
