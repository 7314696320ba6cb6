"""SAELens: a folder with ``sae_weights.safetensors`` and ``cfg.json``, of version 6 or in the flat layout before it.

Training checkpoints are read too: their normalisation lies in ``activation_scaler.json`` and
``activation_whitening.safetensors`` beside them and is folded as SAELens does at the end of training.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from saes.errors import ConfigError, FormatError
from saes.formats.files import (
    Found,
    Stored,
    choice,
    json_bytes,
    read_json,
    safetensors_bytes,
    safetensors_in,
    setting,
    write,
)
from saes.formats.given import Given
from saes.formats.names import UNKNOWN, lens_name, our_name
from saes.formats.weights import Weights, build, stored_as, ungated, unit_rows, unscaled, unwhitened, weights_of
from saes.sae import SAE
from saes.shapes import Tensor

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
SCALER, WHITENING = "activation_scaler.json", "activation_whitening.safetensors"
FILES = (frozenset({WEIGHTS, CONFIG}),)
BESIDE = (SCALER, WHITENING)
NORM_EPS = 1e-5
VERSION = "6.0.0"  # of the layout that is written

_TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
_THRESHOLDED = ("jumprelu", "jumprelu_transcoder", "jumprelu_skip_transcoder")
_BATCHED = ("batchtopk", "matryoshka_batchtopk")
ARCHITECTURES = ("standard", "gated", "topk", "jumprelu", *_BATCHED, *_TRANSCODERS)
_NORMS = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm"}
_FOLDED = ("expected_average_only_in", "covariance_whitening")
# fmt: off
_KNOWN = {
    "architecture", "d_in", "d_sae", "d_out", "dtype", "device", "apply_b_dec_to_input", "normalize_activations",
    "reshape_activations", "metadata", "k", "rescale_acts_by_decoder_norm", "decoder_init_norm", "l1_coefficient",
    "lp_norm", "l1_warm_up_steps", "use_sparse_activations", "aux_loss_coefficient", "jumprelu_init_threshold",
    "jumprelu_bandwidth", "jumprelu_sparsity_loss_mode", "l0_coefficient", "l0_warm_up_steps",
    "pre_act_loss_coefficient", "jumprelu_tanh_scale", "jumprelu_ste_to_input", "target_l0", "topk_threshold_lr",
    "matryoshka_widths", "use_matryoshka_aux_loss",
}
# fmt: on


def read(found: Found, given: Given) -> SAE:
    """Read an SAE or a transcoder, from inference or training.

    Raises:
        FormatError: a file is missing or damaged, a setting or tensor is not known here or does not fit, or a
            normalisation is said but not stored.
    """
    path = found.folder / CONFIG
    config = _of_version_6(read_json(path), path)
    architecture = choice(config, "architecture", ARCHITECTURES, path)
    weights = _weights(safetensors_in(found.folder / WEIGHTS), config, architecture, path)
    weights, input_scale = _on_raw_activations(weights, config, found, given)
    metadata = setting(config, "metadata", dict, path, {})
    details = setting(metadata, "training_architecture_details", dict, path, {})
    widths = setting(config, "matryoshka_widths", list, path, setting(details, "matryoshka_widths", list, path, []))
    return build(
        weights,
        path,
        given,
        **_activation(config, architecture, given, path),
        **_place(config, metadata, architecture, given, path),
        prefixes=tuple(widths),
        input_norm=_NORMS.get(config["normalize_activations"], "none"),
        input_scale=input_scale,
        revision=metadata.get("revision"),
        token_policy=_token_policy(metadata),
    )


def _of_version_6(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The settings under the names of version 6, also from the flat layout, with its defaults."""
    if "metadata" in config:
        choice(config, "architecture", ARCHITECTURES, path)  # another one has settings of its own, of no use here
        if surplus := sorted(config.keys() - _KNOWN):
            raise FormatError(
                f"{path} has the setting {surplus[0]} = {config[surplus[0]]!r}, which is not known here. If it does "
                "not change what the SAE computes, remove it from the file."
            )
        return {"apply_b_dec_to_input": True, **config, "normalize_activations": _norm(config, path)}
    renamed = {
        "hook_point": "hook_name",
        "hook_point_head_index": "hook_head_index",
        "activation_fn_str": "activation_fn",
    }
    flat = {renamed.get(key, key): value for key, value in config.items()}
    hook = setting(flat, "hook_name", str, path, "")
    function = choice(flat, "activation_fn", ("relu", "topk"), path, "relu")
    if function == "topk":
        arguments = setting(flat, "activation_fn_kwargs", dict, path)
        if setting(arguments, "signed", bool, path, False):
            raise FormatError(f"{path}: signed is true, but negative latents have no form here.")
        flat |= {"architecture": "topk", "k": setting(arguments, "k", int, path)}
    defaults = {
        "architecture": "standard",
        "apply_b_dec_to_input": True,
        "reshape_activations": "hook_z" if "hook_z" in hook else "none",
    }
    return {**defaults, **flat, "normalize_activations": _norm(flat, path), "metadata": flat}


def _norm(config: Mapping[str, Any], path: Path) -> str:
    if isinstance(config.get("normalize_activations"), bool):  # before version 3
        return _FOLDED[0] if config["normalize_activations"] else "none"
    return choice(config, "normalize_activations", (*_NORMS, *_FOLDED), path, "none")


def _weights(stored: Stored, config: Mapping[str, Any], architecture: str, path: Path) -> Weights:
    """The tensors as they are stored, a gated SAE as the JumpReLU SAE that it equals."""
    d_in, d_sae = (setting(config, key, int, path) for key in ("d_in", "d_sae"))
    d_out = setting(config, "d_out", int, path) if architecture in _TRANSCODERS else d_in
    shapes = {"W_enc": [d_in, d_sae], "W_dec": [d_sae, d_out], "b_dec": [d_out]}
    shapes |= {name: [d_sae] for name in (("b_gate", "b_mag", "r_mag") if architecture == "gated" else ("b_enc",))}
    logged = "log_threshold" in stored.shapes and "threshold" not in stored.shapes
    if architecture in _THRESHOLDED:
        shapes["log_threshold" if logged else "threshold"] = [d_sae]
    if architecture in _BATCHED:
        shapes["topk_threshold"] = []
    if "skip" in architecture:
        shapes["W_skip"] = [d_out, d_in]
    if "scaling_factor" in stored.shapes:
        shapes["scaling_factor"] = [d_sae]
    tensors = stored.take(shapes)
    threshold = tensors["log_threshold"].exp() if logged else tensors.get("threshold", tensors.get("topk_threshold"))
    W_enc, b_enc = tensors["W_enc"], tensors.get("b_enc")
    if architecture == "gated":
        W_enc, b_enc, threshold = ungated(W_enc, tensors["r_mag"], tensors["b_mag"], tensors["b_gate"])
    assert b_enc is not None
    return Weights(
        W_enc=W_enc,
        W_dec=_finetuned(tensors, config, path),
        b_enc=b_enc,
        b_dec=tensors["b_dec"],
        threshold=threshold,
        W_skip=tensors["W_skip"].T if "W_skip" in tensors else None,
        subtract_b_dec=setting(config, "apply_b_dec_to_input", bool, path) and architecture not in _TRANSCODERS,
    )


def _finetuned(tensors: Mapping[str, Tensor], config: Mapping[str, Any], path: Path) -> Tensor:
    """``W_dec`` with the factor of each latent that fine-tuning learned before version 6."""
    factor = tensors.get("scaling_factor")
    if factor is None or bool((factor == 1).all()):
        return tensors["W_dec"]
    if not setting(config, "finetuning_scaling_factor", bool, path, False):
        raise FormatError(
            f"{path}: the tensor scaling_factor is not 1 although finetuning_scaling_factor is false, so it is not "
            "clear whether it applies. Set the one or remove the other."
        )
    return tensors["W_dec"] * factor.unsqueeze(-1)


def _on_raw_activations(
    weights: Weights, config: Mapping[str, Any], found: Found, given: Given
) -> tuple[Weights, float]:
    """Weights with what was done to activations in training folded, in SAELens' order; and the factor of scaling."""
    path, kind = found.folder / CONFIG, config["normalize_activations"]
    if kind in ("layer_norm", "constant_norm_rescale") and config["architecture"] in _TRANSCODERS:
        raise FormatError(f"{path}: a transcoder with normalize_activations {kind!r} has no form here.")
    rescaled = config["architecture"] in ("topk", *_BATCHED)
    rescaled = rescaled and setting(config, "rescale_acts_by_decoder_norm", bool, path, False)
    scale = 1.0
    if kind == "expected_average_only_in":
        scaler = read_json(found.folder / SCALER) if SCALER in found.files else {}
        stated = setting(scaler, "scaling_factor", float, found.folder / SCALER, None)
        scale = given.scale_beside(stated, path, f"scaling_factor in {SCALER}")
        weights = unscaled(weights, scale)
        if rescaled and weights.threshold is not None:  # it is in units of W_dec's rows, which were just divided
            weights = replace(weights, threshold=weights.threshold / scale)
    if rescaled:
        weights = unit_rows(weights)
    if kind == "covariance_whitening":
        if WHITENING not in found.files:
            raise FormatError(
                f"{path} says covariance_whitening, but {WHITENING} is missing. Copy the whole checkpoint."
            )
        side = len(weights.W_enc)
        shapes = {"mean": [side], "matrix": [side, side], "inverse_matrix": [side, side]}
        weights = unwhitened(weights, *safetensors_in(found.folder / WHITENING).take(shapes).values())
    return weights, scale


def _activation(config: Mapping[str, Any], architecture: str, given: Given, path: Path) -> dict[str, Any]:
    if architecture == "topk":
        return {"activation": "topk", "k": given.k_beside(setting(config, "k", int, path, None), path)}
    if architecture in _BATCHED:  # k is an average there and may be broken
        return {"activation": "batch_topk", "k": max(1, round(setting(config, "k", float, path)))}
    return {"activation": "jumprelu" if architecture == "gated" or architecture in _THRESHOLDED else "relu"}


def _place(
    config: Mapping[str, Any], metadata: Mapping[str, Any], architecture: str, given: Given, path: Path
) -> dict[str, str | None]:
    """Model and sites. A site of hook_z says by its name that heads lie side by side in d_in."""
    hook = setting(metadata, "hook_name", str, path, None)
    shape = choice(config, "reshape_activations", ("none", "hook_z"), path, "none")
    if shape == "hook_z" and not (hook or given.site or "").endswith("hook_z"):
        raise FormatError(
            f"{path}: reshape_activations is hook_z, but hook_name is {hook!r}. Give site=... when loading."
        )
    for key in ("hook_head_index", "hook_head_index_out"):
        if metadata.get(key) is not None and given.site is None:
            raise FormatError(
                f"{path}: {key} is {metadata[key]}, so the SAE reads a single head, for which there is no name here. "
                "Give site=... when loading, and pass it that head's activations."
            )
    place = {"model": setting(metadata, "model_name", str, path, None), "site": our_name(hook)}
    if architecture in _TRANSCODERS:
        place["site_out"] = our_name(setting(metadata, "hook_name_out", str, path, UNKNOWN))
    return place


def _token_policy(metadata: Mapping[str, Any]) -> str | None:
    """What is said of the tokens of training, in words."""
    if isinstance(metadata.get("token_policy"), str):
        return metadata["token_policy"]
    said = {
        "context_size": "contexts of {} tokens",
        "prepend_bos": "prepend_bos {}",
        "seqpos_slice": "positions {}",
        "exclude_special_tokens": "exclude_special_tokens {}",
    }
    parts = [words.format(metadata[key]) for key, words in said.items() if metadata.get(key) is not None]
    return ", ".join(parts) or None


def save(sae: SAE, folder: Path, dtype: torch.dtype) -> None:
    """Write ``sae`` to ``folder``, in the layout of version 6. Batch-top-k becomes JumpReLU, as in SAELens.

    Raises:
        ConfigError: the format has no form for the SAE.
        FormatError: the folder cannot be written to.
    """
    config, weights = sae.config, weights_of(sae)
    if config.is_transcoder and config.activation == "topk":
        raise ConfigError("SAELens has no top-k transcoders. Choose another format.")
    if config.input_norm == "layer_norm" and config.norm_eps != NORM_EPS:
        raise ConfigError(
            f"SAELens normalises with norm_eps {NORM_EPS}, this SAE with {config.norm_eps}. Choose another format."
        )
    tensors = {"W_enc": weights.W_enc, "W_dec": weights.W_dec, "b_enc": weights.b_enc, "b_dec": weights.b_dec}
    if weights.threshold is not None:
        tensors["threshold"] = weights.threshold.expand(config.d_sae)
    if weights.W_skip is not None:
        tensors["W_skip"] = weights.W_skip.T
    write(folder, {CONFIG: json_bytes(_settings(sae)), WEIGHTS: safetensors_bytes(stored_as(tensors, dtype))})


def _settings(sae: SAE) -> dict[str, Any]:
    config = sae.config
    base = {"topk": "topk", "relu": "standard"}.get(config.activation, "jumprelu")
    skip = "skip_" if config.skip else ""
    prefix = "" if base == "standard" else "jumprelu_"
    settings: dict[str, Any] = {
        "architecture": f"{prefix}{skip}transcoder" if config.is_transcoder else base,
        "d_in": config.d_in,
        "d_sae": config.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": config.subtract_b_dec,
        "normalize_activations": {ours: theirs for theirs, ours in _NORMS.items()}[config.input_norm],
        "reshape_activations": "hook_z" if (config.site or "").endswith("hook_z") else "none",
    }
    if config.is_transcoder:
        settings["d_out"] = config.width_out
    if base == "topk":
        settings |= {"k": config.k, "rescale_acts_by_decoder_norm": False}
    return settings | {"metadata": _metadata(sae)}


def _metadata(sae: SAE) -> dict[str, Any]:
    config = sae.config
    metadata: dict[str, Any] = {
        "sae_lens_version": VERSION,
        "model_name": config.model,
        "hook_name": lens_name(config.site),
        "revision": config.revision,
        "token_policy": config.token_policy,
    }
    if config.is_transcoder:
        metadata["hook_name_out"] = lens_name(config.site_out) or UNKNOWN
    if config.activation == "batch_topk":
        metadata["training_architecture"] = "matryoshka_batchtopk" if config.prefixes else "batchtopk"
    if config.prefixes:
        metadata["training_architecture_details"] = {"k": config.k, "matryoshka_widths": list(config.prefixes)}
    return {key: value for key, value in metadata.items() if value is not None}
