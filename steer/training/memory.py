"""What a training run holds in memory, part by part with the arithmetic: that of one process of those that share it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from saes.config import SAEConfig, TrainConfig
from saes.distributed.world import ONE, World
from saes.kernels.eager import CHUNK_ELEMENTS
from saes.optimisers import OPTIMISERS
from saes.sae import tensor_shapes
from steer.models.model import LanguageModel
from steer.training.config import TrainingConfig
from steer.training.stream import Opened

FLOAT32 = 4  # bytes
DENSE_COPIES = {"relu": 6, "jumprelu": 10}  # of the latents in autograd's graph, and of their gradients
SPARSE_COPIES = 1.25  # the pre-activations, and what is active of them
BFLOAT16_COPIES = 1.5  # the product in bfloat16, and once more in float32
DEAD_SHARE = 0.1  # of the latents, for AuxK: how many will be dead is not known before
AUXK_COPIES = 5  # of the pre-activations of dead latents
PAIR = 12  # bytes of an active latent: its number and its value
INNER_COPIES, OUTER_COPIES = 3, 6  # of a pass, as wide as the model's inner layer and as the model, held at once
FILE_COPIES = 2  # of an SAE: its tensors as bytes, and the file that is made of them


@dataclass(frozen=True)
class Part:
    """A part of the memory."""

    name: str
    bytes: int
    how: str
    """The arithmetic."""
    at: str = "always"
    """``always``; or ``step`` or ``checkpoint``: while one is made, and these two are never at once."""


def peak_of(parts: Sequence[Part]) -> int:
    """The largest sum of parts at one time."""
    sums = {when: sum(part.bytes for part in parts if part.at == when) for when in ("always", "step", "checkpoint")}
    return sums["always"] + max(sums["step"], sums["checkpoint"])


def memory_parts(config: TrainingConfig, run: Opened, world: World = ONE) -> list[Part]:
    """What lies in the memory of the first process of a world, apart from Python and its libraries."""
    plan, found = run.plan, list[Part]()
    width, batch = run.origin.d_model, config.batch_tokens
    sites, dtype = len(run.stream.inner.sites if run.lm is None else run.reading.all_sites), torch.float32  # type: ignore[union-attr]
    if run.lm is not None:
        weights = list(run.lm.model.parameters())
        dtype = weights[0].dtype
        total = sum(p.numel() * p.element_size() for p in weights)
        found.append(Part("model", total, f"{sum(p.numel() for p in weights):,} weights, {total:,} bytes"))
    for name, sae, train in zip(plan.names, plan.saes, plan.trains, strict=True):
        found += _sae_parts(name, *share_of(sae, train, world), divided=not world.latents.alone)
    if plan.starts:
        held = sum(map(weight_bytes, plan.saes))
        found.append(Part("SAEs to go on from", held, f"{held // FLOAT32:,} x 4 bytes"))
    row = sites * width * dtype.itemsize
    per_row = f"{sites} sites x {width} x {dtype.itemsize} bytes"
    if run.source is not None:
        ring = run.stream.inner.config.ring_tokens
        found.append(Part("ring", ring * row, f"{ring:,} tokens x {per_row}"))
        ahead = config.ahead + 1 + (not world.all.alone)  # one more is that of another process
        how = f"{ahead} of {config.forward_tokens:,} tokens x {per_row}"
        found.append(Part("passes ahead", ahead * config.forward_tokens * row, how))
        if run.lm is not None:
            found.append(_pass_part(run.lm, config.forward_tokens, dtype.itemsize))
        found.append(Part("copy of the ring", ring * row, "while it is written", "checkpoint"))
    found.append(Part("batch", batch * row, f"{batch:,} tokens x {per_row}"))
    return found


def share_of(sae: SAEConfig, train: TrainConfig, world: World) -> tuple[SAEConfig, TrainConfig]:
    """The SAE that has as many latents as a process of the world, and the training with as many tokens a batch.

    Raises:
        ConfigError: latents or tokens cannot be divided so.
    """
    width = len(world.shard(sae.d_sae))
    if not world.latents.alone:
        inner = tuple(one for one in sae.prefixes if one < width)
        prefixes = (*inner, width) if sae.prefixes else ()
        sae = replace(sae, d_sae=width, k=None if sae.k is None else min(sae.k, width), prefixes=prefixes)
    k_start = None if train.k_start is None else min(train.k_start, width)
    tokens = world.share(train.batch_tokens) * world.latents.size
    return sae, replace(train, batch_tokens=tokens, k_start=k_start)


def weight_bytes(sae: SAEConfig) -> int:
    """Of all weights of an SAE in float32."""
    return FLOAT32 * sum(math.prod(shape) for shape in tensor_shapes(sae).values())


def moment_bytes(sae: SAEConfig, train: TrainConfig) -> int:
    """What the optimiser keeps of an SAE, asked of itself."""
    trained = [torch.empty(list(shape), device="meta") for shape in tensor_shapes(sae).values() if shape]
    states = [OPTIMISERS[train.optimiser].state(p) for p in trained]
    return sum(tensor.numel() * tensor.element_size() for state in states for tensor in state.values())


def _pass_part(lm: LanguageModel, tokens: int, itemsize: int) -> Part:
    """What the layers hold while one computes, if attention is not written out (``sdpa``)."""
    settings: Any = lm.model.config
    inner = getattr(settings.get_text_config(), "intermediate_size", None) or 4 * lm.d_model  # GPT-2 names none
    each = INNER_COPIES * inner + OUTER_COPIES * lm.d_model
    how = f"{tokens:,} tokens x ({INNER_COPIES} x {inner} + {OUTER_COPIES} x {lm.d_model}) x {itemsize} bytes"
    return Part("pass under way", tokens * each * itemsize, how)


def _sae_parts(name: str, sae: SAEConfig, train: TrainConfig, divided: bool) -> list[Part]:
    weights, moments, tokens = weight_bytes(sae), moment_bytes(sae, train), train.batch_tokens
    count = weights // FLOAT32
    dense = sae.activation in DENSE_COPIES
    copies = DENSE_COPIES.get(sae.activation, SPARSE_COPIES)
    copies += BFLOAT16_COPIES if train.compute_dtype == "bfloat16" else 0
    rows = tokens * max(sae.d_in, sae.width_out) * FLOAT32
    return [
        Part(f"{name}: weights", weights, f"{count:,} x 4 bytes"),
        Part(
            f"{name}: gradients",
            weights * (2 if dense else 1),
            f"{count:,} x 4 bytes" + (" x 2 (autograd's, and room for them)" * dense),
        ),
        Part(f"{name}: moments ({train.optimiser})", moments, f"{moments / count:.3g} bytes a weight"),
        Part(
            f"{name}: pre-activations",
            round(tokens * sae.d_sae * FLOAT32 * copies),
            f"{tokens:,} tokens x {sae.d_sae:,} latents x 4 bytes x {copies:g}",
            "always" if not dense else "step",
        ),
        Part(f"{name}: batch, scaled", 6 * rows, "6 (input, target, residual, ...) of the batch in float32", "step"),
        *_auxk_parts(name, sae, train, divided),
        Part(f"{name}: file in memory", FILE_COPIES * weights, f"{FILE_COPIES} x its weights", "checkpoint"),
    ]


def _auxk_parts(name: str, sae: SAEConfig, train: TrainConfig, divided: bool) -> list[Part]:
    """What AuxK takes where ``DEAD_SHARE`` of the latents are dead; none can be in a run that is too short."""
    if not train.auxk_weight or train.dead_tokens >= train.total_tokens:
        return []
    dead, tokens = math.ceil(DEAD_SHARE * sae.d_sae), train.batch_tokens
    active = min(max(1, sae.d_in // 2), dead)
    columns = tokens * dead * FLOAT32 * AUXK_COPIES
    width = sae.d_in + sae.width_out
    rows = (
        min(CHUNK_ELEMENTS, tokens * active * width) if divided else 2 * dead * width
    )  # its sums are sparse, or dense
    how = (
        f"{tokens:,} tokens x {dead:,} dead latents ({DEAD_SHARE:.0%}) x 4 bytes x {AUXK_COPIES}, {active:,} active of "
        "them, their rows"
    )
    return [Part(f"{name}: AuxK", columns + tokens * active * PAIR + rows * FLOAT32, how, "step")]
