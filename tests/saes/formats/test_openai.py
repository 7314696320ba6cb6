"""OpenAI: fixtures as the library writes them, compared with its formulas in float64."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch

import saes
from saes import ConfigError, FormatError
from tests.saes.formats.oracle import D_SAE, K, agree, back, inputs, made, random, same, topk

TOPK = {"activation": "TopK", "activation_state_dict": {"k": K, "postact_fn": "ReLU"}}
RELU = {"activation": "ReLU", "activation_state_dict": OrderedDict()}


def write(path: Path, **entries) -> Path:
    a = random()
    contents = OrderedDict(
        pre_bias=a["b_dec"],
        latent_bias=a["b_enc"],
        stats_last_nonzero=torch.zeros(D_SAE, dtype=torch.long),
        latents_activation_frequency=torch.ones(D_SAE),
        latents_mean_square=torch.zeros(D_SAE),
    )
    contents |= {"encoder.weight": a["W_enc"].T.contiguous(), "decoder.weight": a["W_dec"].T, **entries}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(contents, path)
    return path


def theirs(path: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """encode and decode of the library's Autoencoder, from what lies in the file."""
    w = torch.load(path, weights_only=True)
    normalised = w["activation"] == "TopK"
    x = x.double()
    mean = x.mean(-1, keepdim=True)
    deviation = (x - mean).std(-1, keepdim=True)
    read = (x - mean) / (deviation + 1e-5) if normalised else x
    pre = (read - w["pre_bias"].double()) @ w["encoder.weight"].double().T + w["latent_bias"]
    latents = topk(pre, w["activation_state_dict"]["k"]) if normalised else pre.relu()
    output = latents @ w["decoder.weight"].double().T + w["pre_bias"]
    return latents, output * deviation + mean if normalised else output


@pytest.mark.parametrize("activation", [RELU, TOPK])
@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_both_activations_give_their_numbers(tmp_path, activation, size):
    path = write(tmp_path / "6.pt", **activation)
    agree(saes.load(path), size * inputs(), *theirs(path, size * inputs()))


@pytest.mark.parametrize(
    ("folder", "site"),
    [
        ("resid_post_mlp_v5_32k", "6.resid_post"),
        ("resid_delta_attn_v5_128k", "6.attn_out"),
        ("resid_delta_mlp_v4", "6.mlp_out"),
        ("resid_post_attn_v5_32k", "blocks.6.hook_resid_mid"),
        ("mlp_post_act", "blocks.6.mlp.hook_post"),
        ("mine", None),
    ],
)
def test_the_path_of_the_release_tells_the_site(tmp_path, folder, site):
    config = saes.load(write(tmp_path / folder / "autoencoders" / "6.pt", **TOPK)).config
    assert (config.site, config.model) == (site, "gpt2" if site else None)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"activation": "Identity"}, "activation is 'Identity', which has no exact form"),
        ({"activation": "TopK", "activation_state_dict": {"k": K, "postact_fn": "Identity"}}, "postact_fn is"),
        ({"activation": "TopK"}, "lacks activation_state_dict"),
        ({"pre_bias": torch.zeros(3)}, r"tensor pre_bias has shape \[3\], expected \[12\]"),
        ({"ema": torch.zeros(3)}, "holds the tensor ema"),
    ],
)
def test_what_cannot_be_read_rightly_is_refused(tmp_path, entries, words):
    with pytest.raises(FormatError, match=words):
        saes.load(write(tmp_path / "6.pt", **entries))


@pytest.mark.parametrize("name", ["6.pt", "folder"])
@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize(("activation", "norm"), [("topk", "layer_norm"), ("relu", "none")])
def test_round_trip(tmp_path, name, activation, norm, subtract):
    sae = made(activation, input_norm=norm, subtract_b_dec=subtract)
    again = back(sae, tmp_path / name, "openai")
    same(sae, again)
    assert (again.config.input_norm, again.config.k) == (norm, sae.config.k)
    agree(sae, inputs(), *theirs(tmp_path / "6.pt" if name == "6.pt" else tmp_path / name / "autoencoder.pt", inputs()))


def test_what_it_has_no_form_for_is_not_written(tmp_path):
    for activation, config in (
        ("topk", {}),
        ("relu", {"input_norm": "layer_norm"}),
        ("jumprelu", {}),
        ("topk", {"input_norm": "layer_norm", "norm_eps": 1e-8}),
        ("relu", {"subtract_b_dec": False, "d_out": 7}),
    ):
        with pytest.raises(ConfigError, match="OpenAI's format holds ReLU autoencoders, and top-k ones that normalise"):
            saes.save(made(activation, **config), tmp_path / "new.pt", "openai")
    assert not (tmp_path / "new.pt").exists()
