"""An SAE in training: everything that a step changes, and that a checkpoint holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from saes.config import TrainConfig
from saes.distributed.world import ONE, World
from saes.kernels.eager import Memory, WeightGrads, kept
from saes.optimisers import OPTIMISERS, State
from saes.sae import SAE
from saes.schedule import k_at, ramp
from saes.shapes import Bool, Float, Int, Tensor

PER_LATENT = ("W_dec", "W_enc", "b_enc", "threshold")  # weights with a row for each latent, as the optimiser sees them
ALIGNED = 64  # floats: parts of the buffer begin where vector instructions like to
LEAST_DECAY = 0.99  # of the mean that becomes the threshold of batch_topk: it is that of about a hundred steps


@dataclass
class Training:
    """An SAE in training. Activations are scaled and normalised before they come here.

    Where latents are divided over the ranks of ``world``, all that has one row for each latent is of this rank's.
    """

    sae: SAE
    config: TrainConfig
    world: World = ONE
    steps_done: int = 0
    silent_tokens: Int[Tensor, " d_sae"] = field(init=False)
    """Tokens since each latent last fired."""
    moments: dict[str, State] = field(init=False)
    """What the optimiser keeps of each weight."""
    least: tuple[float, float] = (0.0, 0.0)
    """Of the least values that ``batch_topk`` kept: their sum, and that of their weights, both decaying."""
    grads: WeightGrads = field(init=False)
    """Memory for gradients that lasts from step to step."""
    memory: Memory = field(init=False, default_factory=dict)
    """Large tensors that last from step to step, whatever they hold."""
    buffer: Float[Tensor, " n"] = field(init=False)
    """All that ranks which share a batch sum, in one piece; ``grads`` lies in it, but for its squares."""
    in_buffer: dict[str, Tensor] = field(init=False)
    """Its parts: the gradient of each weight, and ``radial`` and ``fired`` of ``Gradients``."""

    def __post_init__(self) -> None:
        sae = self.sae
        if not sae.W_enc.data.T.is_contiguous():  # the step writes to its rows in place, one for each latent
            sae.W_enc.data = sae.W_enc.data.T.contiguous().T
        self.silent_tokens = torch.zeros(len(sae.latents), dtype=torch.long, device=sae.W_dec.device)
        parts = {name: p.shape for name, p in weights(sae).items()}
        parts |= dict.fromkeys(("radial", "fired"), self.silent_tokens.shape)
        sizes = [-(-shape.numel() // ALIGNED) * ALIGNED for shape in parts.values()]
        self.buffer = sae.W_dec.new_zeros(sum(sizes)).detach()
        self.in_buffer = {
            name: part[: shape.numel()].view(shape)
            for (name, shape), part in zip(parts.items(), self.buffer.split(sizes), strict=True)
        }
        of = (self.in_buffer[name] for name in ("W_dec", "W_enc", "b_enc", "radial"))
        self.grads = WeightGrads(*of, squares=torch.empty_like(self.in_buffer["radial"]))
        self.moments = {name: OPTIMISERS[self.config.optimiser].state(p) for name, p in weights(sae).items()}

    @property
    def k(self) -> int:
        """Active latents of a token at this step (``topk``, ``batch_topk``)."""
        assert self.sae.config.k is not None
        config = self.config
        return k_at(self.steps_done, config.steps, self.sae.config.k, config.k_start, config.k_decay_frac)

    @property
    def sparsity(self) -> float:
        """Share of the sparsity penalty's weight at this step (``relu``, ``jumprelu``)."""
        return ramp(self.steps_done, self.config.steps, self.config.sparsity_warmup_frac)

    @property
    def latents(self) -> range:
        """Those that this rank holds."""
        return self.sae.latents

    @property
    def dead(self) -> Bool[Tensor, " d_sae"]:
        """Latents that have been silent for so many tokens that they count as dead."""
        return self.silent_tokens > self.config.dead_tokens

    def pre_activations(self, read: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_sae"]:
        """The encoder's product, before the ReLU, in float32 (computed in bfloat16 if the config says so)."""
        pre = kept(self.memory, "pre", (len(read), len(self.latents)), read)
        if self.config.compute_dtype == "bfloat16":
            return torch.add(read.bfloat16() @ self.sae.W_enc.bfloat16(), self.sae.b_enc, out=pre)
        return torch.addmm(self.sae.b_enc, read, self.sae.W_enc, out=pre)

    def tokens_of(self, x: Float[Tensor, "token d_in"]) -> int:
        """Tokens of the batch of which ``x`` are this rank's."""
        if self.config.outlier_norm is None:
            return len(x) * self.world.data.size
        return int(self.world.data.total(len(x)))

    def count(self, tokens: int, fired: Bool[Tensor, " d_sae"], least: float | None) -> None:
        """Count a step that has been made: its tokens, the latents that fired, the least value kept."""
        self.silent_tokens += tokens
        self.silent_tokens[fired] = 0
        self.steps_done += 1
        if least is not None:
            total, weight = self.least
            self.least = (LEAST_DECAY * total + least, LEAST_DECAY * weight + 1)
            self.sae.threshold.fill_(self.least[0] / self.least[1])

    def state(self) -> dict[str, Any]:
        """Everything but the weights, as JSON data and tensors (not copied)."""
        return {
            "steps_done": self.steps_done,
            "silent_tokens": self.silent_tokens,
            "moments": self.moments,
            "least": list(self.least),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``state``; the weights are put in place by the caller."""
        self.steps_done = state["steps_done"]
        self.least = (state["least"][0], state["least"][1])
        self.silent_tokens.copy_(state["silent_tokens"])
        for name, parts in self.moments.items():
            for part, tensor in parts.items():
                tensor.copy_(state["moments"][name][part])


def weights(sae: SAE) -> dict[str, Tensor]:
    """The weights as an optimiser sees them: matrices of latents with one contiguous row for each latent."""
    found = {"W_dec": sae.W_dec.data, "W_enc": sae.W_enc.data.T, "b_enc": sae.b_enc.data, "b_dec": sae.b_dec.data}
    if sae.config.activation == "jumprelu":
        found["threshold"] = sae.threshold.data
    return found | ({"W_skip": sae.W_skip.data} if sae.config.skip else {})
