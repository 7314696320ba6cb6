"""Weights for raw activations, and the same for the scaled ones of training: one way, and back.

Encoder and decoder are linear up to the ReLU. So where input and output have one scale, only biases and thresholds
carry it; a transcoder's encoder and skip carry the quotient of the two.
"""

import hashlib
from collections.abc import Mapping

import torch

from saes.config import TrainConfig
from saes.errors import ConfigError, ShapeError
from saes.formats.files import all_finite
from saes.sae import SAE
from saes.scale import Scale
from saes.shapes import Tensor
from saes.training import PER_LATENT

IN_UNITS_OF_OUTPUT = ("b_enc", "b_dec", "threshold")
FROM_INPUT_TO_OUTPUT = ("W_enc", "W_skip")
OF_NEW_ONES = ("b_dec_init", "jumprelu_threshold")  # fields of TrainConfig that say where a new SAE begins


def folded(weights: Mapping[str, Tensor], read: Scale, written: Scale) -> dict[str, Tensor]:
    """Weights for raw activations from those for scaled ones; not copied where they are the same."""
    raw = {name: written.undo(one) if name in IN_UNITS_OF_OUTPUT else one for name, one in weights.items()}
    if read != written:
        raw |= {name: read.over(written).apply(raw[name]) for name in raw.keys() & set(FROM_INPUT_TO_OUTPUT)}
    return raw


def unfolded(weights: Mapping[str, Tensor], read: Scale, written: Scale) -> dict[str, Tensor]:
    """Weights for scaled activations from those for raw ones; not copied where they are the same."""
    scaled = {name: written.apply(one) if name in IN_UNITS_OF_OUTPUT else one for name, one in weights.items()}
    if read != written:
        scaled |= {name: written.over(read).apply(scaled[name]) for name in scaled.keys() & set(FROM_INPUT_TO_OUTPUT)}
    return scaled


def start_of(sae: SAE, latents: range) -> dict[str, Tensor]:
    """The weights of an SAE that training can go on from, for raw activations: those of some latents, in float32.

    Training keeps decoder rows at norm 1, so latents take on the norms that theirs have; the output is the same, but
    for ``topk`` and ``batch_topk`` where norms differ: they select by activation, whose units have changed. Thresholds
    below 0 become 0, which lets the same values through. A latent whose row is zero writes nothing, so it is silenced:
    the first step would give the row norm 1.

    Raises:
        ShapeError: a row is so long that its latent overflows.
    """
    weights = {name: one.detach().float() for name, one in sae.state_dict().items()}
    for name in PER_LATENT:
        if name in weights and weights[name].ndim:  # batch_topk has one threshold
            axis = 1 if name == "W_enc" else 0
            weights[name] = weights[name].narrow(axis, latents.start, len(latents))
    norms = weights["W_dec"].double().norm(dim=-1)
    divisor = torch.where(norms > 0, norms, 1.0)
    weights["W_dec"] = (weights["W_dec"].double() / divisor.unsqueeze(-1)).float()
    for name in ("W_enc", "b_enc"):
        weights[name] = (weights[name].double() * norms).float()
    if "threshold" in weights:
        threshold = weights["threshold"].clamp_min(0)
        weights["threshold"] = (threshold.double() * norms).float() if threshold.ndim else threshold
    if ill := [name for name, one in weights.items() if not all_finite(one)]:
        raise ShapeError(
            f"Training cannot go on from this SAE: with decoder rows at norm 1, {', '.join(ill)} overflows. The "
            f"longest row has norm {norms.max().item():.3g}."
        )
    return weights


def require_startable(sae: SAE, train: TrainConfig) -> None:
    """See that training can go on from an SAE, under these settings.

    Raises:
        ConfigError: a setting says where a new SAE begins.
        ShapeError: the SAE holds a part of its latents, or weights that are not finite.
    """
    defaults = TrainConfig(train.total_tokens, train.batch_tokens)
    for name in OF_NEW_ONES:
        if (value := getattr(train, name)) != getattr(defaults, name):
            raise ConfigError(
                f"{name} says where a new SAE begins, and this one goes on from the weights that it has: got {value!r}."
                " Leave it out, or train a new one."
            )
    if len(sae.latents) != sae.config.d_sae:
        raise ShapeError(
            f"Training goes on from a whole SAE, and this one holds {len(sae.latents)} of {sae.config.d_sae} latents. "
            "Load the whole one from the run folder."
        )
    for name, tensor in sae.state_dict().items():
        if not all_finite(tensor):
            raise ShapeError(f"Training cannot go on from this SAE: {name} holds NaN or infinite values.")


def digest_of(sae: SAE) -> str:
    """SHA-256 of an SAE's weights, by which a run that began with them is known again."""
    found = hashlib.sha256()
    for name, tensor in sorted(sae.state_dict().items()):
        found.update(f"{name} {list(tensor.shape)} ".encode())
        rows = tensor.T if name == "W_enc" else tensor  # as it lies in memory: the other way round is a copy
        found.update(memoryview(rows.detach().float().cpu().contiguous().reshape(-1).numpy()).cast("B"))
    return found.hexdigest()
