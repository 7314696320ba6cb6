"""Llamascopium (formerly Language-Model-SAEs): a folder with ``config.json`` and ``sae_weights``. Read only.

Weights are for activations scaled to a mean norm of sqrt(d_in); latents have the values that the library's ``encode``
gives for these. Its earlier layout is read too (linear layers and ``log_jumprelu_threshold``, as in Llama Scope
R1-Distill), where the factor of the scaling is not in the file and has to be given.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from saes.errors import FormatError
from saes.formats.files import Found, Stored, choice, read_json, read_torch, safetensors_in, setting, tensors_in
from saes.formats.given import Given
from saes.formats.names import our_name
from saes.formats.weights import Weights, build, reading, unit_rows, unscaled
from saes.sae import SAE

CONFIG = "config.json"
_STEM = "sae_weights"
FILES = tuple(frozenset({CONFIG, f"{_STEM}.{suffix}"}) for suffix in ("safetensors", "pt", "dcp"))
_NORMS = {"inference": "none", "none": "none", "dataset-wise": "none", "token-wise": "constant_norm"}
_MEAN_NORM = "dataset_average_activation_norm."


def read(found: Found, given: Given) -> SAE:
    """Read an SAE or a transcoder.

    Raises:
        FormatError: a file is missing or damaged, a setting has no form here, or the norm of the activations is
        missing.
    """
    path = found.folder / CONFIG
    config = read_json(path)
    choice(config, "sae_type", ("sae",), path, "sae")
    if setting(config, "use_glu_encoder", bool, path, False):
        raise FormatError(f"{path}: use_glu_encoder is true, but a gated linear encoder has no form here.")
    # batchtopk depends on the rest of the batch there, and no threshold is stored
    function = choice(config, "act_fn", ("jumprelu", "topk", "relu"), path, "relu")
    stored = _stored(found)
    norm = choice(config, "norm_activation", tuple(_NORMS), path, "dataset-wise")
    entering = setting(config, "hook_point_in", str, path)
    leaving = setting(config, "hook_point_out", str, path, entering)
    if norm == "token-wise" and leaving != entering:
        raise FormatError(f"{path}: a transcoder with norm_activation 'token-wise' has no form here.")
    weights = _by_norm(_weights(stored, config, function, path), config, path)
    scale_in = scale_out = 1.0
    if norm == "dataset-wise":
        scale_in = scale_out = given.scale_beside(_scale(stored, entering, config, path), path, _MEAN_NORM + entering)
    if norm == "dataset-wise" and leaving != entering:
        scale_out = Given().scale_beside(_scale(stored, leaving, config, path), path, _MEAN_NORM + leaving)
    if leaving != entering:
        weights = reading(weights, subtract_b_dec=False)
    return build(
        unscaled(weights, scale_in, scale_out),
        path,
        given,
        activation=function,
        k=given.k_beside(setting(config, "top_k", int, path, None), path) if function == "topk" else None,
        site=our_name(entering),
        site_out=our_name(leaving) if leaving != entering else None,
        input_norm=_NORMS[norm],
        input_scale=scale_in,
    )


def _stored(found: Found) -> Stored:
    if f"{_STEM}.safetensors" in found.files:
        return safetensors_in(found.folder / f"{_STEM}.safetensors")
    path = found.folder / f"{_STEM}.pt"
    if path.name not in found.files:
        raise FormatError(
            f"{found.folder} holds no {_STEM}.safetensors or {_STEM}.pt. Sharded weights ({_STEM}.dcp) are not read: "
            "load them with Llamascopium and save them to one file."
        )
    return tensors_in(path, setting(read_torch(path), "sae", dict, path))


def _weights(stored: Stored, config: Mapping[str, Any], function: str, path: Path) -> Weights:
    d_in = setting(config, "d_model", int, path)
    d_sae = int(d_in * setting(config, "expansion_factor", float, path))
    bias = setting(config, "use_decoder_bias", bool, path, True)
    earlier = "encoder.weight" in stored.shapes
    W_enc, b_enc, W_dec, b_dec = (
        ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
        if earlier
        else ("W_E", "b_E", "W_D", "b_D")
    )
    log_threshold = "log_jumprelu_threshold" if earlier else "activation_function.log_jumprelu_threshold"
    shapes = {
        W_enc: [d_sae, d_in] if earlier else [d_in, d_sae],
        b_enc: [d_sae],
        W_dec: [d_in, d_sae] if earlier else [d_sae, d_in],
    }
    if bias:
        shapes[b_dec] = [d_in]
    if function == "jumprelu":
        shapes[log_threshold] = [d_sae]
    tensors = stored.take(shapes, ignored=[name for name in stored.shapes if name.startswith(_MEAN_NORM)])
    return Weights(
        W_enc=tensors[W_enc].T if earlier else tensors[W_enc],
        W_dec=tensors[W_dec].T if earlier else tensors[W_dec],
        b_enc=tensors[b_enc],
        b_dec=tensors[b_dec] if bias else torch.zeros(d_in),
        threshold=tensors[log_threshold].exp() if log_threshold in tensors else None,
        subtract_b_dec=setting(config, "apply_decoder_bias_to_pre_encoder", bool, path, False),
    )


def _by_norm(weights: Weights, config: Mapping[str, Any], path: Path) -> Weights:
    """The comparison of latents times their decoder norms, where it is asked for, folded into the weights."""
    function = config.get("act_fn")
    if function not in ("jumprelu", "topk") or not setting(config, "sparsity_include_decoder_norm", bool, path, True):
        return weights
    if weights.threshold is None:
        return unit_rows(weights)
    return replace(weights, threshold=weights.threshold / weights.W_dec.norm(dim=-1).clamp_min(1e-8))


def _scale(stored: Stored, hook: str, config: Mapping[str, Any], path: Path) -> float | None:
    if _MEAN_NORM + hook not in stored.shapes:
        return None
    mean = stored.number(_MEAN_NORM + hook)
    return setting(config, "d_model", int, path) ** 0.5 / mean if mean > 0 else 0.0
