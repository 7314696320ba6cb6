"""sparsify: fixtures as the library writes them, compared with its formulas in float64."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import saes
from saes import ConfigError, FormatError
from tests.saes.formats.oracle import D_IN, D_SAE, K, agree, back, inputs, made, random, same, topk

CONFIG = {
    "activation": "topk",
    "expansion_factor": 32,
    "normalize_decoder": True,
    "num_latents": D_SAE,
    "k": K,
    "multi_topk": False,
    "skip_connection": False,
    "transcode": False,
    "d_in": D_IN,
}


def write(folder: Path, **settings) -> Path:
    """A checkpoint in the library's layout: ``W_dec`` is [latents, d_in], ``W_skip`` [d_out, d_in]."""
    config, a = CONFIG | settings, random()
    weights = {"encoder.weight": a["W_enc"].T, "encoder.bias": a["b_enc"], "W_dec": a["W_dec"], "b_dec": a["b_dec"]}
    if config["skip_connection"]:
        weights["W_skip"] = a["W_skip"].T
    if not config["num_latents"]:
        weights = {
            "encoder.weight": torch.cat([a["W_enc"].T, a["W_enc"].T[:8]]),
            "encoder.bias": torch.cat([a["b_enc"], a["b_enc"][:8]]),
            "W_dec": torch.cat([a["W_dec"], a["W_dec"][:8]]),
            "b_dec": a["b_dec"],
        }
    folder.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def theirs(folder: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """encode and forward of the library's SparseCoder, from what lies in the folder."""
    config = json.loads((folder / "cfg.json").read_text())
    w = {name: tensor.double() for name, tensor in load_file(folder / "sae.safetensors").items()}
    x = x.double()
    read = x if config["transcode"] else x - w["b_dec"]
    latents = topk((read @ w["encoder.weight"].T + w["encoder.bias"]).relu(), config["k"])
    output = latents @ w["W_dec"] + w["b_dec"]
    return latents, output + x @ w["W_skip"].T if "W_skip" in w else output


@pytest.mark.parametrize("num_latents", [D_SAE, 0])
@pytest.mark.parametrize("normalize_decoder", [True, False])
def test_both_ways_of_saying_the_width_and_both_settings_of_the_decoder(tmp_path, num_latents, normalize_decoder):
    """SAELens' loader fails on all four: it transposes W_dec, takes 0 literally, and ties b_dec to the decoder."""
    settings = {"num_latents": num_latents, "expansion_factor": 4, "normalize_decoder": normalize_decoder}
    folder = write(tmp_path / "layers.10", **settings)
    sae = saes.load(folder)
    assert sae.config.d_sae == (num_latents or 4 * D_IN)
    agree(sae, inputs(), *theirs(folder, inputs()))


@pytest.mark.parametrize(("skip", "transcode"), [(True, False), (False, True), (True, True)])
def test_transcoders_and_skips(tmp_path, skip, transcode):
    folder = write(tmp_path / "layers.3", skip_connection=skip, transcode=transcode)
    agree(saes.load(folder), inputs(), *theirs(folder, inputs()))


@pytest.mark.parametrize(
    ("folder", "transcode", "site", "site_out"),
    [
        ("layers.10", False, "10.resid_post", None),
        ("h.10", False, "10.resid_post", None),
        ("layers.10/seed1", False, "10.resid_post", None),
        ("layers.3.mlp", False, "layers.3.mlp", None),
        ("embed_tokens", False, "embed_tokens", None),
        ("mine", False, None, None),
        ("layers.3.mlp", True, "layers.3.mlp.input", "layers.3.mlp"),
        ("layers.3", True, "3.resid_pre", "3.resid_post"),
        ("mine", True, None, "mine"),
    ],
)
def test_the_hook_point_survives(tmp_path, folder, transcode, site, site_out):
    """SAELens' loader maps all that begins with layers.N to the residual stream."""
    (tmp_path / "config.json").write_text('{"model": "EleutherAI/pythia-70m"}')
    config = saes.load(write(tmp_path / folder, transcode=transcode)).config
    assert (config.site, config.site_out) == (site, site_out)
    assert config.model == "EleutherAI/pythia-70m"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"activation": "groupmax"}, "activation is 'groupmax', which has no exact form"),
        ({"signed": True}, "signed is true"),
        ({"gated": False}, "setting gated = False"),
        ({"k": 500}, "k must not exceed d_sae"),
        ({"transcode": "no"}, "transcode is 'no', expected true or false"),
        ({"d_in": None}, "lacks d_in"),
    ],
)
def test_what_cannot_be_read_rightly_is_refused(tmp_path, settings, words):
    folder = write(tmp_path / "layers.3")
    (folder / "cfg.json").write_text(json.dumps(CONFIG | settings))
    with pytest.raises(FormatError, match=words):
        saes.load(folder)


def test_the_old_setting_signed_is_known(tmp_path):
    folder = write(tmp_path / "layers.3", signed=False)
    agree(saes.load(folder), inputs(), *theirs(folder, inputs()))


TRANSCODER = {"subtract_b_dec": False, "site_out": "1.mlp_out"}


@pytest.mark.parametrize("config", [{}, {"subtract_b_dec": False}, TRANSCODER, TRANSCODER | {"skip": True}])
def test_round_trip(tmp_path, config):
    sae = made("topk", **config)
    same(sae, back(sae, tmp_path / "layers.1", "sparsify"))
    agree(sae, inputs(), *theirs(tmp_path / "layers.1", inputs()))


@pytest.mark.parametrize(
    "sae",
    [
        lambda: made("jumprelu"),
        lambda: made("relu"),
        lambda: made("batch_topk"),
        lambda: made("topk", input_norm="layer_norm"),
        lambda: made("topk", subtract_b_dec=False, d_out=7),
    ],
)
def test_what_it_has_no_form_for_is_not_written(tmp_path, sae):
    with pytest.raises(ConfigError, match="sparsify's format holds top-k SAEs of raw activations"):
        saes.save(sae(), tmp_path / "layers.1", "sparsify")
    assert not (tmp_path / "layers.1").exists()


def test_the_weights_of_two_formats_do_not_overwrite_one_another(tmp_path):
    sae = made("topk")
    for first, second in (("saes", "sparsify"), ("sparsify", "saes")):
        saes.save(sae, tmp_path / first, first)
        with pytest.raises(ConfigError, match="holds an SAE of another format"):
            saes.save(sae, tmp_path / first, second)
        same(sae, saes.load(tmp_path / first))
