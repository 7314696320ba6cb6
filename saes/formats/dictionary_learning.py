"""dictionary_learning: a folder with ``ae.pt`` and ``config.json``, or one such ``.pt`` file.

The classes differ in their names of tensors, except AutoEncoderTopK and BatchTopKSAE, which ``config.json`` tells
apart. Files written while training goes on are read too: ``checkpoints/ae_STEP.pt``, and backups, which overwrite
``ae.pt`` with a dict of their own in which biases are not scaled yet.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from saes.errors import ConfigError, FormatError
from saes.formats.files import Found, Stored, json_bytes, read_json, read_torch, setting, tensors_in, torch_bytes, write
from saes.formats.given import Given
from saes.formats.weights import Weights, build, reading, stored_as, ungated, weights_of
from saes.sae import SAE

WEIGHTS, CONFIG = "ae.pt", "config.json"
BESIDE = (CONFIG, f"../{CONFIG}")  # of one trainer: beside the file, or above its checkpoints
KEYS = (
    frozenset({"ae", "config", "norm_factor"}),
    frozenset({"encoder.weight", "encoder.bias", "decoder.weight", "bias"}),
    frozenset({"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"}),
    frozenset({"encoder.weight", "decoder.weight", "decoder_bias", "r_mag", "gate_bias", "mag_bias"}),
    frozenset({"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}),
    frozenset({"encoder.weight", "encoder.bias", "decoder.weight", "b_dec", "k"}),
)
_LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
_CLASSES = {  # tensors besides the linear ones, by the class that has them
    "AutoEncoder": {*_LINEAR, "bias"},
    "AutoEncoderNew": {*_LINEAR, "decoder.bias"},
    "GatedAutoEncoder": {"encoder.weight", "decoder.weight", "decoder_bias", "r_mag", "gate_bias", "mag_bias"},
    "JumpReluAutoEncoder": {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"},
    "MatryoshkaBatchTopKSAE": {"W_enc", "b_enc", "W_dec", "b_dec", "threshold", "k", "group_sizes"},
    "AutoEncoderTopK": {*_LINEAR, "b_dec", "k"},
    "BatchTopKSAE": {*_LINEAR, "b_dec", "k", "threshold"},
}
_SUBMODULE = re.compile(r"(resid_pre|resid_post|attn_out|mlp_out)_layer_(\d+)")


def read(found: Found, given: Given) -> SAE:
    """Read an SAE, from the end of training or from its midst.

    Raises:
        FormatError: the file is damaged or holds something else, does not fit its config, or its threshold is not set.
    """
    if (path := found.torch_file) is None:
        raise FormatError(f"{found.path} has no ae.pt. Name the folder of one trainer, or a .pt file itself.")
    contents = read_torch(path)
    trainer, factor = _trainer(path), 1.0
    if "ae" in contents:
        trainer = setting(contents, "config", dict, path, {}) or trainer
        factor = setting(contents, "norm_factor", float, path, 1.0)
        contents = setting(contents, "ae", dict, path)
    stored = tensors_in(path, contents)
    if len(shape := stored.shapes.get("encoder.weight", [])) == 3:
        raise FormatError(
            f"{path}: tensor encoder.weight has shape {shape}, that of a CrossCoder, which reads and writes {shape[0]} "
            "layers or models at once and has no form here. Expected a matrix."
        )
    kind = _kind(stored, trainer)
    weights = _weights(stored, kind, trainer)
    if not 0 < factor < float("inf"):
        raise FormatError(f"{path}: norm_factor is {factor}, expected a positive number.")
    threshold = None if weights.threshold is None else weights.threshold * factor
    weights = replace(weights, b_enc=weights.b_enc * factor, b_dec=weights.b_dec * factor, threshold=threshold)
    return build(
        weights,
        path,
        given,
        **_activation(stored, kind, given),
        model=setting(trainer, "lm_name", str, path, None),
        site=_site(setting(trainer, "submodule_name", str, path, None)),
        input_scale=1 / factor,
    )


def _trainer(path: Path) -> dict[str, Any]:
    """The trainer's settings from the config beside the file, or above its ``checkpoints``; empty if there is none."""
    folder = path.parent.parent if path.absolute().parent.name == "checkpoints" else path.parent
    config = folder / CONFIG
    return setting(read_json(config), "trainer", dict, config, {}) if config.is_file() else {}


def _kind(stored: Stored, trainer: Mapping[str, Any]) -> str:
    """The class that wrote the file: what its config says and its tensors bear out."""
    names = stored.shapes.keys()
    named = setting(trainer, "dict_class", str, stored.path, None)
    if named is not None:
        if named not in _CLASSES:
            raise FormatError(
                f"{stored.path}: dict_class is {named!r}, which is not known: expected {', '.join(_CLASSES)}."
            )
        return named
    fitting = [kind for kind, known in _CLASSES.items() if known == names]
    if not fitting:
        raise FormatError(
            f"{stored.path} holds {', '.join(sorted(names))}, which no class of dictionary_learning does."
        )
    if fitting == ["BatchTopKSAE"]:  # later AutoEncoderTopK have a threshold too, and do not use it
        raise FormatError(
            f"{stored.path} is of AutoEncoderTopK or of BatchTopKSAE, which encode differently and hold the same "
            "tensors. "
            f'Put its {CONFIG} beside it, or a {CONFIG} with {{"trainer": {{"dict_class": "BatchTopKSAE"}}}}.'
        )
    return fitting[0]


def _weights(stored: Stored, kind: str, trainer: Mapping[str, Any]) -> Weights:
    linear = "encoder.weight" in _CLASSES[kind]
    rows, columns = stored.sides("encoder.weight" if linear else "W_enc")
    d_in, d_sae = (columns, rows) if linear else (rows, columns)
    for key, side in (("activation_dim", d_in), ("dict_size", d_sae)):
        if setting(trainer, key, int, stored.path, side) != side:
            raise FormatError(
                f"{stored.path}: the encoder has shape {[rows, columns]}, but {CONFIG} says {key} {trainer[key]}. They "
                "do not belong together."
            )
    shapes = {
        "encoder.weight": [d_sae, d_in],
        "encoder.bias": [d_sae],
        "decoder.weight": [d_in, d_sae],
        "W_enc": [d_in, d_sae],
        "W_dec": [d_sae, d_in],
        "b_enc": [d_sae],
        "threshold": [d_sae] if kind == "JumpReluAutoEncoder" else [],
        **{name: [d_sae] for name in ("r_mag", "gate_bias", "mag_bias")},
        **{name: [d_in] for name in ("bias", "decoder.bias", "decoder_bias", "b_dec")},
    }
    counts = {"k", "group_sizes"}
    unused = {"threshold"} if kind == "AutoEncoderTopK" else set()
    taken = stored.take({name: shapes[name] for name in _CLASSES[kind] - counts}, ignored=counts | unused)
    W_enc = taken["encoder.weight"].T if linear else taken["W_enc"]
    b_enc, threshold = taken.get("encoder.bias", taken.get("b_enc")), taken.get("threshold")
    if kind == "GatedAutoEncoder":
        W_enc, b_enc, threshold = ungated(W_enc, taken["r_mag"], taken["mag_bias"], taken["gate_bias"])
    assert b_enc is not None
    if threshold is not None and threshold.ndim == 0 and threshold < 0:
        raise FormatError(
            f"{stored.path}: threshold is {float(threshold)}, that is, not set yet: the file was saved before the "
            "trainer's threshold_start_step. Use a later checkpoint."
        )
    return Weights(
        W_enc=W_enc,
        W_dec=taken["decoder.weight"].T if linear else taken["W_dec"],
        b_enc=b_enc,
        b_dec=next(taken[name] for name in ("bias", "decoder.bias", "decoder_bias", "b_dec") if name in taken),
        threshold=threshold,
        subtract_b_dec=kind not in ("AutoEncoderNew", "JumpReluAutoEncoder"),
    )


def _activation(stored: Stored, kind: str, given: Given) -> dict[str, Any]:
    if kind in ("GatedAutoEncoder", "JumpReluAutoEncoder"):
        return {"activation": "jumprelu"}
    if kind in ("AutoEncoder", "AutoEncoderNew"):
        return {"activation": "relu"}
    k = given.k_beside(int(stored.number("k")), stored.path)
    if kind == "AutoEncoderTopK":
        return {"activation": "topk", "k": k}
    sizes = stored.get("group_sizes").tolist() if kind == "MatryoshkaBatchTopKSAE" else []
    return {"activation": "batch_topk", "k": k, "prefixes": tuple(accumulate(int(size) for size in sizes))}


def _site(submodule: str | None) -> str | None:
    match = _SUBMODULE.fullmatch(submodule or "")
    return f"{int(match[2])}.{match[1]}" if match else submodule


def save(sae: SAE, folder: Path, dtype: torch.dtype) -> None:
    """Write ``sae`` to ``folder``, as ``ae.pt`` and ``config.json``.

    Raises:
        ConfigError: the format has no form for the SAE.
        FormatError: the folder cannot be written to.
    """
    config = sae.config
    if config.is_transcoder or config.input_norm != "none":
        raise ConfigError(
            f"dictionary_learning holds autoencoders of raw activations: got input_norm {config.input_norm!r}, d_out "
            f"{config.width_out}, site_out {config.site_out!r}, skip {config.skip}. Choose another format."
        )
    kind = {"relu": "AutoEncoderNew", "jumprelu": "JumpReluAutoEncoder", "topk": "AutoEncoderTopK"}.get(
        config.activation
    )
    kind = kind or ("MatryoshkaBatchTopKSAE" if config.prefixes else "BatchTopKSAE")
    layer, _, part = (config.site or "").partition(".")
    trainer = {
        "dict_class": kind,
        "activation_dim": config.d_in,
        "dict_size": config.d_sae,
        "k": config.k,
        "layer": int(layer) if layer.isdecimal() else None,
        "lm_name": config.model,
        "submodule_name": f"{part}_layer_{layer}" if layer.isdecimal() else config.site,
    }
    write(folder, {CONFIG: json_bytes({"trainer": trainer}), WEIGHTS: torch_bytes(stored_as(_state(sae, kind), dtype))})


def _state(sae: SAE, kind: str) -> dict[str, torch.Tensor]:
    weights = reading(weights_of(sae), subtract_b_dec=kind not in ("AutoEncoderNew", "JumpReluAutoEncoder"))
    state = {
        "encoder.weight": weights.W_enc.T,
        "encoder.bias": weights.b_enc,
        "decoder.weight": weights.W_dec.T,
        "decoder.bias": weights.b_dec,
        "W_enc": weights.W_enc,
        "W_dec": weights.W_dec,
        "b_enc": weights.b_enc,
        "b_dec": weights.b_dec,
        "threshold": torch.tensor(-1.0) if weights.threshold is None else weights.threshold,
        "k": torch.tensor(sae.config.k or 0, dtype=torch.int32),
        "group_sizes": torch.tensor(
            [b - a for a, b in zip((0, *sae.config.prefixes), sae.config.prefixes, strict=False)]
        ),
    }
    # today's AutoEncoderTopK has a threshold and leaves it at -1
    return {name: state[name] for name in _CLASSES[kind] | ({"threshold"} if kind == "AutoEncoderTopK" else set())}
