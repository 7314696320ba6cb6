"""Llama Scope: a folder with ``hyperparams.json`` and ``checkpoints/final.safetensors`` (arXiv 2410.20526).

Activations were scaled to a mean norm of sqrt(d_in): s = sqrt(d_in) / norm. The weights are for scaled activations; the
one threshold is in units of raw ones, so it is multiplied by s together with the encoder.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from saes.errors import ConfigError, FormatError
from saes.formats.files import Found, choice, json_bytes, read_json, safetensors_bytes, safetensors_in, setting, write
from saes.formats.given import Given
from saes.formats.names import lens_name, our_name
from saes.formats.weights import Weights, build, reading, stored_as, unit_rows, unscaled, weights_of
from saes.sae import SAE

CONFIG, WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
FILES = (frozenset({CONFIG, WEIGHTS}),)
_NORMS = {"none": "none", "inference": "none", "dataset-wise": "none", "token-wise": "constant_norm"}


def read(found: Found, given: Given) -> SAE:
    """Read an SAE or a transcoder.

    Raises:
        FormatError: a file is missing or damaged, a setting has no form here, or the norm of the activations is
        missing.
    """
    path = found.folder / CONFIG
    config = read_json(path)
    if setting(config, "use_glu_encoder", bool, path, False):
        raise FormatError(f"{path}: use_glu_encoder is true, but a gated linear encoder has no form here.")
    d_in = setting(config, "d_model", int, path)
    d_sae = setting(config, "d_sae", int, path, 0) or d_in * setting(config, "expansion_factor", int, path)
    bias = setting(config, "use_decoder_bias", bool, path, True)
    shapes = {"encoder.weight": [d_sae, d_in], "encoder.bias": [d_sae], "decoder.weight": [d_in, d_sae]}
    tensors = safetensors_in(found.folder / WEIGHTS).take(shapes | ({"decoder.bias": [d_in]} if bias else {}))
    weights = Weights(
        W_enc=tensors["encoder.weight"].T,
        W_dec=tensors["decoder.weight"].T,
        b_enc=tensors["encoder.bias"],
        b_dec=tensors["decoder.bias"] if bias else torch.zeros(d_in),
        subtract_b_dec=setting(config, "apply_decoder_bias_to_pre_encoder", bool, path, False),
    )
    entering = setting(config, "hook_point_in", str, path, None)
    leaving = setting(config, "hook_point_out", str, path, entering)
    transcoder = leaving != entering
    norm = choice(config, "norm_activation", tuple(_NORMS), path, "dataset-wise")
    scale_in, scale_out = _scales(config, norm, transcoder, given, path)
    weights, activation = _selected(weights, config, (scale_in, scale_out), given, path)
    weights = unscaled(reading(weights, False) if transcoder else weights, scale_in, scale_out)
    return build(
        weights,
        path,
        given,
        **activation,
        model=setting(config, "model", str, path, None),
        site=our_name(entering),
        site_out=our_name(leaving) if transcoder else None,
        input_norm=_NORMS[norm],
        input_scale=scale_in,
    )


def _scales(config: Mapping[str, Any], norm: str, transcoder: bool, given: Given, path: Path) -> tuple[float, float]:
    """The factors of inputs and outputs."""
    if norm != "dataset-wise":
        return 1.0, 1.0
    key = "dataset_average_activation_norm"
    norms = setting(config, key, dict, path, {})
    root = setting(config, "d_model", int, path) ** 0.5
    means = [setting(norms, end, float, path, None) for end in ("in", "out")]
    stated = [None if mean is None else root / mean if mean > 0 else 0.0 for mean in means]
    scale_in = given.scale_beside(stated[0], path, key)
    return scale_in, Given().scale_beside(stated[1], path, key) if transcoder else scale_in


def _selected(
    weights: Weights, config: Mapping[str, Any], scales: tuple[float, float], given: Given, path: Path
) -> tuple[Weights, dict[str, Any]]:
    """The activation, with what it says of decoder norms folded."""
    function = choice(config, "act_fn", ("jumprelu", "topk", "relu"), path, "jumprelu")
    least = setting(config, "jump_relu_threshold", float, path, ... if function == "jumprelu" else 0.0)
    by_norm = setting(config, "sparsity_include_decoder_norm", bool, path, False)
    if function == "relu":
        return weights, {"activation": "relu"}
    if function == "topk" and least <= 0:
        k = given.k_beside(setting(config, "top_k", int, path, None), path)
        return unit_rows(weights) if by_norm else weights, {"activation": "topk", "k": k}
    # top-k with a threshold is used with the threshold there too
    threshold = torch.full(weights.b_enc.shape, least * scales[0])
    if by_norm:  # the threshold is for raw latents whose rows for raw outputs have norm 1
        threshold = least * scales[1] / weights.W_dec.norm(dim=-1).clamp_min(1e-8)
    return replace(weights, threshold=threshold), {"activation": "jumprelu"}


def save(sae: SAE, folder: Path, dtype: torch.dtype) -> None:
    """Write ``sae`` to ``folder``.

    Raises:
        ConfigError: the format has no form for the SAE.
        FormatError: the folder cannot be written to.
    """
    config, weights = sae.config, weights_of(sae)
    least = torch.zeros(1) if weights.threshold is None else weights.threshold.unique()
    if config.input_norm == "layer_norm" or config.skip or config.width_out != config.d_in or len(least) > 1:
        raise ConfigError(
            "Llama Scope's format holds SAEs with one threshold for all latents, without skip, as wide at the output "
            f"as at the input, and without layer_norm: got {len(least)} thresholds, input_norm {config.input_norm!r}, "
            f"skip {config.skip}, d_out {config.width_out}. Choose another format."
        )
    root = config.d_in**0.5
    settings = {
        "model": config.model,
        "hook_point_in": lens_name(config.site),
        "hook_point_out": lens_name(config.site if config.site_out is None else config.site_out),
        "d_model": config.d_in,
        "d_sae": config.d_sae,
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": config.subtract_b_dec,
        "use_glu_encoder": False,
        "act_fn": "jumprelu" if config.activation == "batch_topk" else config.activation,
        "jump_relu_threshold": float(least[0]),
        "top_k": config.k,
        "sparsity_include_decoder_norm": False,
        "norm_activation": "token-wise" if config.input_norm == "constant_norm" else "dataset-wise",
        "dataset_average_activation_norm": {"in": root, "out": root},  # the factor 1: it is in the weights already
    }
    tensors = {
        "encoder.weight": weights.W_enc.T,
        "encoder.bias": weights.b_enc,
        "decoder.weight": weights.W_dec.T,
        "decoder.bias": weights.b_dec,
    }
    write(folder, {CONFIG: json_bytes(settings), WEIGHTS: safetensors_bytes(stored_as(tensors, dtype))})
