"""EleutherAI's sparsify: a folder named by the hook point, with ``sae.safetensors`` and ``cfg.json``.

``a = topk(relu((x - b_dec) W^T + bias))``, ``x_hat = a W_dec + b_dec``, with ``W_dec`` [d_sae, d_in]. A transcoder does
not subtract ``b_dec``, and ``x W_skip^T`` may be added.
"""

import re
from pathlib import Path
from typing import Any

import torch

from saes.errors import ConfigError, FormatError
from saes.formats.files import (
    Found,
    choice,
    json_bytes,
    read_json,
    safetensors_bytes,
    safetensors_in,
    setting,
    write,
)
from saes.formats.given import Given
from saes.formats.names import our_name
from saes.formats.weights import Weights, build, reading, stored_as, weights_of
from saes.sae import SAE

WEIGHTS, CONFIG = "sae.safetensors", "cfg.json"
FILES = (frozenset({WEIGHTS, CONFIG}),)
BESIDE = ("../config.json", "../../config.json")  # of the run: above the hook point, or above one of several seeds
_KNOWN = {
    "activation",
    "expansion_factor",
    "normalize_decoder",  # of training: what is saved is used as it is
    "num_latents",
    "k",
    "multi_topk",
    "skip_connection",
    "transcode",
    "signed",
    "d_in",
}
_LAYER = re.compile(r"(.*\.)?(layers|h)\.\d+")
_HOOK_POINT = re.compile(r"(.*\.)?(layers|h)\.\d+(\..*)?|embed_tokens|wte")


def read(found: Found, given: Given) -> SAE:
    """Read an SAE or a transcoder. The folder's name gives the site, the run's ``config.json`` above it the model.

    Raises:
        FormatError: a file is missing or damaged, a setting or tensor is not known, or the activation is groupmax.
    """
    path = found.folder / CONFIG
    config = read_json(path)
    if surplus := sorted(config.keys() - _KNOWN):
        raise FormatError(
            f"{path} has the setting {surplus[0]} = {config[surplus[0]]!r}, which is not known here. If it does not "
            "change what the SAE computes, remove it from the file."
        )
    choice(config, "activation", ("topk",), path, "topk")
    if setting(config, "signed", bool, path, False):
        raise FormatError(f"{path}: signed is true, but negative latents have no form here.")
    d_in = setting(config, "d_in", int, path)
    d_sae = setting(config, "num_latents", int, path, 0) or d_in * setting(config, "expansion_factor", int, path)
    skip, transcoder = (setting(config, key, bool, path, False) for key in ("skip_connection", "transcode"))
    shapes = {"encoder.weight": [d_sae, d_in], "encoder.bias": [d_sae], "W_dec": [d_sae, d_in], "b_dec": [d_in]}
    tensors = safetensors_in(found.folder / WEIGHTS).take(shapes | ({"W_skip": [d_in, d_in]} if skip else {}))
    weights = Weights(
        W_enc=tensors["encoder.weight"].T,
        W_dec=tensors["W_dec"],
        b_enc=tensors["encoder.bias"],
        b_dec=tensors["b_dec"],
        W_skip=tensors["W_skip"].T if skip else None,
        subtract_b_dec=not transcoder,
    )
    return build(
        reading(weights, subtract_b_dec=not (transcoder or skip)),
        path,
        given,
        k=given.k_beside(setting(config, "k", int, path, None), path),
        **_place(found.folder, transcoder),
    )


def _place(folder: Path, transcoder: bool) -> dict[str, str | None]:
    """A module's name means its output, or, for a transcoder, its input and its output."""
    at = folder.absolute()
    at = at.parent if re.fullmatch(r"seed\d+", at.name) else at  # one folder for each of several seeds
    run = at.parent / "config.json"
    model: Any = read_json(run).get("model") if run.is_file() else None
    place: dict[str, str | None] = {"model": model if isinstance(model, str) else None}
    if not _HOOK_POINT.fullmatch(at.name):
        return place | ({"site_out": at.name} if transcoder else {})
    if not transcoder:
        return place | {"site": our_name(at.name)}
    entering = our_name(at.name + ".input")
    if _LAYER.fullmatch(at.name):
        entering = f"{at.name.rpartition('.')[2]}.resid_pre"
    return place | {"site": entering, "site_out": our_name(at.name)}


def save(sae: SAE, folder: Path, dtype: torch.dtype) -> None:
    """Write ``sae`` to ``folder``. The format keeps model and site in the names of folders alone.

    Raises:
        ConfigError: the format has no form for the SAE, or the folder holds one of this project's own format.
        FormatError: the folder cannot be written to.
    """
    config = sae.config
    if config.activation != "topk" or config.input_norm != "none" or config.width_out != config.d_in:
        raise ConfigError(
            "sparsify's format holds top-k SAEs of raw activations, as wide at the output as at the input: got "
            f"{config.activation} with input_norm {config.input_norm!r}, d_in {config.d_in}, d_out {config.width_out}. "
            "Choose another format."
        )
    if (folder / "config.json").exists():
        raise ConfigError(f"{folder} holds an SAE of another format (config.json). Choose another folder.")
    weights = weights_of(sae) if config.is_transcoder else reading(weights_of(sae), subtract_b_dec=True)
    tensors = {
        "encoder.weight": weights.W_enc.T,
        "encoder.bias": weights.b_enc,
        "W_dec": weights.W_dec,
        "b_dec": weights.b_dec,
    }
    settings = {
        "activation": "topk",
        "expansion_factor": max(1, config.d_sae // config.d_in),
        "normalize_decoder": not config.is_transcoder,
        "num_latents": config.d_sae,
        "k": config.k,
        "multi_topk": False,
        "skip_connection": config.skip,
        "transcode": config.is_transcoder,
        "d_in": config.d_in,
    }
    if weights.W_skip is not None:
        tensors["W_skip"] = weights.W_skip.T
    write(folder, {CONFIG: json_bytes(settings), WEIGHTS: safetensors_bytes(stored_as(tensors, dtype))})
