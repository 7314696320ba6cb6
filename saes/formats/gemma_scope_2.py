"""Gemma Scope 2: ``params.safetensors`` and ``config.json``, with JumpReLU SAEs and transcoders. Read only.

As Gemma Scope 1, with ``affine_skip_connection`` [d_in, d_out] in skip transcoders. Cross-layer transcoders, whose
``w_dec`` has three axes, have no form here.
"""

from pathlib import Path
from typing import Any

from saes.errors import FormatError
from saes.formats.files import Found, choice, read_json, safetensors_in, setting
from saes.formats.given import Given
from saes.formats.names import our_name
from saes.formats.weights import Weights, build
from saes.sae import SAE

WEIGHTS, CONFIG = "params.safetensors", "config.json"
FILES = (frozenset({WEIGHTS}),)
BESIDE = (CONFIG,)
_SKIP = "affine_skip_connection"


def read(found: Found, given: Given) -> SAE:
    """Read an SAE or a transcoder.

    Raises:
        FormatError: a file is missing or damaged, does not fit the other, or holds a cross-layer transcoder.
    """
    path = found.folder / CONFIG
    config: dict[str, Any] = read_json(path) if CONFIG in found.files else {}
    choice(config, "architecture", ("jump_relu",), path, "jump_relu")
    stored = safetensors_in(found.folder / WEIGHTS)
    if len(stored.shapes.get("w_dec", ())) == 3:
        raise FormatError(
            f"{stored.path}: tensor w_dec has shape {stored.shapes['w_dec']}, expected [d_sae, d_out]: a cross-layer "
            "transcoder writes to many layers, which has no form here."
        )
    place = _place(config, path)
    d_in, d_sae = stored.sides("w_enc")
    d_out = d_in if place["site_out"] is None else stored.sides("w_dec")[1]
    skip = _SKIP in stored.shapes
    if setting(config, "affine_connection", bool, path, skip) != skip:
        raise FormatError(
            f"{path} says affine_connection {not skip}, but {stored.path.name} {'has' if skip else 'lacks'} {_SKIP}."
        )
    shapes = {"w_enc": [d_in, d_sae], "w_dec": [d_sae, d_out], "b_enc": [d_sae], "b_dec": [d_out], "threshold": [d_sae]}
    tensors = stored.take(shapes | ({_SKIP: [d_in, d_out]} if skip else {}))
    weights = Weights(
        W_enc=tensors["w_enc"],
        W_dec=tensors["w_dec"],
        b_enc=tensors["b_enc"],
        b_dec=tensors["b_dec"],
        threshold=tensors["threshold"],
        W_skip=tensors.get(_SKIP),
    )
    return build(weights, path, given, activation="jumprelu", **place)


def _place(config: dict[str, Any], path: Path) -> dict[str, str | None]:
    entering, leaving = (setting(config, f"hf_hook_point_{end}", str, path, None) for end in ("in", "out"))
    return {
        "model": setting(config, "model_name", str, path, None),
        "site": our_name(entering),
        "site_out": our_name(leaving) if leaving not in (None, entering) else None,
    }
