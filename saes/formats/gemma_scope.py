"""Gemma Scope 1: ``params.npz``, with JumpReLU SAEs and transcoders of raw activations (arXiv 2408.05147).

``f = relu(pre) * (pre > threshold)`` with ``pre = x w_enc + b_enc``, ``x_hat = f w_dec + b_dec``. The file says neither
model nor site: they are taken from a path like the release's,
``gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71``.
"""

import re
from dataclasses import replace
from pathlib import Path

import torch

from saes.errors import ConfigError
from saes.formats.files import Found, npz_bytes, npz_in, write
from saes.formats.given import Given
from saes.formats.names import UNKNOWN
from saes.formats.weights import Weights, build, reading, stored_as, weights_of
from saes.sae import SAE

WEIGHTS = "params.npz"
FILES = (frozenset({WEIGHTS}),)
_RELEASE = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att|transcoders)")
_SITES = {"res": "{}.resid_post", "mlp": "{}.mlp_out", "att": "blocks.{}.attn.hook_z"}


def read(found: Found, given: Given) -> SAE:
    """Read an SAE or a transcoder.

    Raises:
        FormatError: the file is missing or damaged, or its arrays do not fit together.
    """
    path = found.folder / WEIGHTS
    stored = npz_in(path)
    d_in, d_sae = stored.sides("w_enc")
    tensors = stored.take(
        {"w_enc": [d_in, d_sae], "w_dec": [d_sae, d_in], "b_enc": [d_sae], "b_dec": [d_in], "threshold": [d_sae]}
    )
    weights = Weights(tensors["w_enc"], tensors["w_dec"], tensors["b_enc"], tensors["b_dec"], tensors["threshold"])
    parts = path.absolute().parts
    if "embedding" in parts:  # trained on embeddings times sqrt(d_in), less the scaling of what is stored
        weights = replace(weights, W_enc=weights.W_enc / d_in**0.5, W_dec=weights.W_dec * d_in**0.5)
    return build(weights, path, given, activation="jumprelu", **_place(parts))


def _place(parts: tuple[str, ...]) -> dict[str, str | None]:
    """Model and sites by the path. What a transcoder reads has no name of ours, so it stays unsaid."""
    release = _RELEASE.search("/".join(parts))
    layers = [int(part.removeprefix("layer_")) for part in parts if re.fullmatch(r"layer_\d+", part)]
    if release is None:
        return {"site": "hook_embed" if "embedding" in parts else None}
    model = f"google/gemma-2-{release[1]}" + ("-it" if release[2] == "it" else "")
    if "embedding" in parts:
        return {"model": model, "site": "hook_embed"}
    if release[3] == "transcoders":
        return {"model": model, "site_out": f"{layers[-1]}.mlp_out" if layers else UNKNOWN}
    return {"model": model, "site": _SITES[release[3]].format(layers[-1]) if layers else None}


def save(sae: SAE, folder: Path, dtype: torch.dtype) -> None:
    """Write ``sae`` to ``folder`` as ``params.npz``. Batch-top-k and ReLU become JumpReLU with equal numbers.

    Raises:
        ConfigError: the format has no form for the SAE or the dtype.
        FormatError: the folder cannot be written to.
    """
    config = sae.config
    if dtype == torch.bfloat16:
        raise ConfigError("Gemma Scope's format is of numpy, which has no bfloat16. Choose float16 or float32.")
    if config.activation == "topk" or config.input_norm != "none" or config.is_transcoder:
        raise ConfigError(
            "Gemma Scope's format holds autoencoders with thresholds, of raw activations: got "
            f"{config.activation} with input_norm {config.input_norm!r}, site_out {config.site_out!r}, skip "
            f"{config.skip}. Choose another format."
        )
    weights = reading(weights_of(sae), subtract_b_dec=False)
    threshold = torch.zeros(()) if weights.threshold is None else weights.threshold
    arrays = {
        "w_enc": weights.W_enc,
        "w_dec": weights.W_dec,
        "b_enc": weights.b_enc,
        "b_dec": weights.b_dec,
        "threshold": threshold.expand(config.d_sae),
    }
    write(folder, {WEIGHTS: npz_bytes(stored_as(arrays, dtype))})
