"""What an SAE's files hold, as JSON data: format, config, stored tensors, norms, and what is said of the training."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from saes import SAE
from saes.formats import recognise
from saes.formats.files import TORCH, npz_in, read_json, read_torch, safetensors_in, tensors_in
from saes.shapes import Float, Tensor
from steer.checkpoints.load import Located
from steer.checkpoints.staging import TRAINING_LOG
from steer.files import read_lines

_SMALL = 1e-3  # of the median norm: a row that is hardly there


def describe(located: Located) -> dict[str, Any]:
    """Everything that ``steer sae show`` tells.

    ``stored`` lists the tensors as they lie in the files, ``weights`` those of the SAE that ``load_sae`` gives: in
    float32, on raw activations.

    Raises:
        SaesError: the files are not those of an SAE, or cannot be read.
    """
    found = recognise(located.path, located.format)
    sae = located.load()
    return {
        "path": str(located.path),
        "format": found.format.name,
        "files": [{"name": path.name, "bytes": path.stat().st_size} for path in found.paths],
        "config": asdict(sae.config),
        "parameters": sum(tensor.numel() for tensor in sae.state_dict().values()),
        "stored": [row for path in found.paths for row in _stored(path)],
        "weights": weights(sae),
        "training": training_summary(located.path),
    }


@torch.no_grad()
def weights(sae: SAE) -> dict[str, Any]:
    """Shapes of an SAE's tensors, norms of each latent's directions, and the ranges of biases and thresholds.

    ``dead_looking`` counts latents whose decoder row or encoder column is all but zero: below a thousandth of the
    median norm. Which latents never fire on a text, only activations can tell.
    """
    tensors = sae.state_dict()
    decoder, encoder = tensors["W_dec"].norm(dim=1), tensors["W_enc"].norm(dim=0)
    small = (decoder < _SMALL * decoder.median()) | (encoder < _SMALL * encoder.median())
    found: dict[str, Any] = {
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "decoder_norms": _range(decoder),
        "encoder_norms": _range(encoder),
        "b_enc": _range(tensors["b_enc"]),
        "b_dec_norm": float(tensors["b_dec"].norm()),
        "dead_looking": int((small | (decoder == 0) | (encoder == 0)).sum()),
    }
    if "threshold" in tensors:
        found["threshold"] = _range(tensors["threshold"])
    if "W_skip" in tensors:
        found["W_skip_norm"] = float(tensors["W_skip"].norm())
    return found


def training_summary(path: Path) -> dict[str, Any]:
    """What this project's own format says of the training, and the last line of the log beside it; else empty.

    Raises:
        DataError: the log is damaged.
        FormatError: the config is.
    """
    folder = path if path.is_dir() else path.parent
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    training = config.get("training")
    if config.get("format") != "saes" or not isinstance(training, dict):
        return {}
    log = list(read_lines(folder / TRAINING_LOG, missing_ok=True))
    return {**(log[-1] if log else {}), **training}


def _range(values: Float[Tensor, "*d_sae"]) -> dict[str, float]:
    return {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}


def _stored(path: Path) -> list[dict[str, Any]]:
    """Name, shape and dtype of each tensor in a file; none in a file of settings."""
    if path.suffix == ".safetensors":
        stored = safetensors_in(path)
    elif path.suffix == ".npz":
        stored = npz_in(path)
    elif path.suffix in TORCH:
        stored = tensors_in(path, flat(read_torch(path)))
    else:
        return []
    return [
        {"file": path.name, "name": name, "shape": shape, "dtype": stored.dtypes[name]}
        for name, shape in stored.shapes.items()
    ]


def flat(contents: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Entries of nested mappings, by their path with dots."""
    entries: dict[str, Any] = {}
    for name, value in contents.items():
        entries |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return entries
