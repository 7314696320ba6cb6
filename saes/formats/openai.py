"""OpenAI's sparse_autoencoder: one ``.pt`` file, with ReLU or with top-k on normalised tokens.

``a = act((x - pre_bias) W^T + latent_bias)``, ``x_hat = decoder(a) + pre_bias``. If the activation is TopK, each token
is given mean 0 and deviation 1 first, and the output is brought back (arXiv 2406.04093, appendix A).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from saes.errors import ConfigError, FormatError
from saes.formats.files import TORCH, Found, choice, read_torch, setting, tensors_in, torch_bytes, write
from saes.formats.given import Given
from saes.formats.weights import Weights, build, reading, stored_as, weights_of
from saes.sae import SAE

KEYS = (frozenset({"encoder.weight", "decoder.weight", "latent_bias", "pre_bias"}),)
NAME = "autoencoder.pt"
NORM_EPS = 1e-5
_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
_PLACE = re.compile(r"(mlp_post_act|resid_delta_attn|resid_post_attn|resid_delta_mlp|resid_post_mlp)(?:_v\d.*)?")
_SITES = {
    "mlp_post_act": "blocks.{}.mlp.hook_post",
    "resid_delta_attn": "{}.attn_out",
    "resid_post_attn": "blocks.{}.hook_resid_mid",
    "resid_delta_mlp": "{}.mlp_out",
    "resid_post_mlp": "{}.resid_post",
}


def read(found: Found, given: Given) -> SAE:
    """Read an SAE. The site is taken from a path like the release's, ``resid_post_mlp_v5_32k/autoencoders/6.pt``.

    Raises:
        FormatError: the file is damaged, holds something else, or an activation with no form here.
    """
    if (path := found.torch_file) is None:
        raise FormatError(f"{found.path} is no torch file: name the .pt file itself.")
    contents = read_torch(path)
    stored = tensors_in(path, contents)
    d_sae, d_in = stored.sides("encoder.weight")
    shapes = {
        "encoder.weight": [d_sae, d_in],
        "decoder.weight": [d_in, d_sae],
        "latent_bias": [d_sae],
        "pre_bias": [d_in],
    }
    tensors = stored.take(shapes, ignored=_STATISTICS)
    weights = Weights(
        W_enc=tensors["encoder.weight"].T,
        W_dec=tensors["decoder.weight"].T,
        b_enc=tensors["latent_bias"],
        b_dec=tensors["pre_bias"],
        subtract_b_dec=True,
    )
    return build(weights, path, given, **_activation(contents, path), **_place(path))


def _activation(contents: Mapping[str, Any], path: Path) -> dict[str, Any]:
    if choice(contents, "activation", ("ReLU", "TopK"), path, "ReLU") == "ReLU":
        return {"activation": "relu"}
    state = setting(contents, "activation_state_dict", dict, path)
    choice(state, "postact_fn", ("ReLU",), path, "ReLU")
    return {"k": setting(state, "k", int, path), "input_norm": "layer_norm", "norm_eps": NORM_EPS}


def _place(path: Path) -> dict[str, str]:
    place = _PLACE.fullmatch(path.absolute().parent.parent.name)
    if place is None or not path.stem.isdecimal():
        return {}
    return {"model": "gpt2", "site": _SITES[place[1]].format(int(path.stem))}


def save(sae: SAE, path: Path, dtype: torch.dtype) -> None:
    """Write ``sae`` to the file ``path``, or to ``autoencoder.pt`` in it if it has no suffix of a torch file.

    Raises:
        ConfigError: the format has no form for the SAE.
        FormatError: the file cannot be written.
    """
    config = sae.config
    plain = config.activation == "relu" and config.input_norm == "none"
    normalised = config.activation == "topk" and config.input_norm == "layer_norm" and config.norm_eps == NORM_EPS
    if config.is_transcoder or not (plain or normalised):
        raise ConfigError(
            f"OpenAI's format holds ReLU autoencoders, and top-k ones that normalise each token (layer_norm): got "
            f"{config.activation} with input_norm "
            f"{config.input_norm!r}{', a transcoder' if config.is_transcoder else ''}. Choose another format."
        )
    weights = reading(weights_of(sae), subtract_b_dec=True)
    contents = {
        "pre_bias": weights.b_dec,
        "latent_bias": weights.b_enc,
        "stats_last_nonzero": torch.zeros(config.d_sae, dtype=torch.long),
        "latents_activation_frequency": torch.ones(config.d_sae),
        "latents_mean_square": torch.zeros(config.d_sae),
        "encoder.weight": weights.W_enc.T,
        "decoder.weight": weights.W_dec.T,
        "activation": "ReLU" if plain else "TopK",
        "activation_state_dict": {} if plain else {"k": config.k, "postact_fn": "ReLU"},
    }
    folder, name = (path.parent, path.name) if path.suffix in TORCH else (path, NAME)
    write(folder, {name: torch_bytes(stored_as(contents, dtype))})
