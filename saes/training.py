"""An SAE in training: everything that a step changes, and that a checkpoint holds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from saes.config import TrainConfig
from saes.distributed.world import ONE, World
from saes.errors import ConfigError
from saes.kernels.eager import Memory, WeightGrads, kept
from saes.optimisers import OPTIMISERS, State
from saes.pages import in_large_pages
from saes.sae import SAE
from saes.schedule import k_at, ramp
from saes.shapes import Bool, Float, Int, Tensor

PER_LATENT = ("W_dec", "W_enc", "b_enc", "threshold")  # weights with a row for each latent, as the optimiser sees them
ALIGNED = 64  # floats: parts of the buffer begin where vector instructions like to
LEAST_DECAY = 0.99  # of the mean that becomes the threshold of batch_topk: it is that of about a hundred steps
LOOK_STEPS = 25  # at most, on a device that has to be waited for
LOOKS = 10  # at least, in the time after which a silent latent counts as dead


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
    least: Float[Tensor, "2"] = field(init=False)
    """Of the least values that ``batch_topk`` kept: their sum, and that of their weights, both decaying; in float64."""
    look_every: int = field(init=False)
    """Steps between two at which the CPU looks at what the device has found; the others it only queues."""
    beta2: float = field(init=False)
    """``adam_beta2``, by the activation where the config leaves it open."""
    ill: Float[Tensor, ""] = field(init=False)
    """0, or NaN once a loss or gradient was not finite and the step was made without looking; in float64."""
    _most_dead: int | None = field(init=False, default=None)
    """``most_dead`` as it was at the last look, which decides the shapes of what is computed until the next."""
    grads: WeightGrads = field(init=False)
    """Memory for gradients that lasts from step to step."""
    memory: Memory = field(init=False, default_factory=dict)
    """Large tensors that last from step to step, whatever they hold."""
    buffer: Float[Tensor, " n"] = field(init=False)
    """All that ranks which share a batch sum, in one piece; ``grads`` lies in it, but for its squares."""
    in_buffer: dict[str, Tensor] = field(init=False)
    """Its parts: the gradient of each weight, and ``radial`` and ``fired`` of ``Gradients``."""

    def __post_init__(self) -> None:
        sae, self.config = self.sae, self.config.of(self.sae.config.activation)
        assert self.config.adam_beta2 is not None, "it has just been filled in"
        self.beta2 = self.config.adam_beta2
        if not sae.W_enc.data.T.is_contiguous():  # the step writes to its rows in place, one for each latent
            sae.W_enc.data = sae.W_enc.data.T.contiguous().T
        device = sae.W_dec.device
        require_trainable_on(device)
        self.silent_tokens = torch.zeros(len(sae.latents), dtype=torch.long, device=device)
        self.least = torch.zeros(2, dtype=torch.float64, device=device)
        self.ill = torch.zeros((), dtype=torch.float64, device=device)
        rarely = max(1, min(LOOK_STEPS, self.config.dead_tokens // (LOOKS * self.config.batch_tokens)))
        self.look_every = 1 if device.type == "cpu" else rarely
        parts = {name: p.shape for name, p in weights(sae).items()}
        parts |= dict.fromkeys(("radial", "fired"), self.silent_tokens.shape)
        sizes = [-(-shape.numel() // ALIGNED) * ALIGNED for shape in parts.values()]
        self.buffer = in_large_pages(sae.W_dec.new_zeros(sum(sizes)).detach())
        self.in_buffer = {
            name: part[: shape.numel()].view(shape)
            for (name, shape), part in zip(parts.items(), self.buffer.split(sizes), strict=True)
        }
        of = (self.in_buffer[name] for name in ("W_dec", "W_enc", "b_enc", "radial"))
        self.grads = WeightGrads(*of, squares=torch.empty_like(self.in_buffer["radial"]))
        self.moments = {name: OPTIMISERS[self.config.optimiser].state(p) for name, p in weights(sae).items()}
        for tensor in (*weights(sae).values(), *(one for state in self.moments.values() for one in state.values())):
            in_large_pages(tensor)

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
    def looks(self) -> bool:
        """Whether the CPU waits at this step for what the device finds."""
        return self.steps_done % self.look_every == 0

    @property
    def dead(self) -> Bool[Tensor, " d_sae"]:
        """Latents that have been silent for so many tokens that they count as dead."""
        return self.silent_tokens > self.config.dead_tokens

    @property
    def most_dead(self) -> int:
        """How many latents can be dead at this step; where every step looks, how many are.

        Silence grows by a batch's tokens a step, so a look tells which latents can be dead before the next one.
        """
        if self._most_dead is None or self.looks:
            ahead = (self.look_every - 1) * self.config.batch_tokens
            self._most_dead = int((self.silent_tokens > self.config.dead_tokens - ahead).sum())
        return self._most_dead

    def dead_places(self) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        """The dead latents in ``most_dead`` places, rising; what added to a pre-activation silences unused places.

        It is -inf for them, and 0 for the others. Unlike ``nonzero`` this does not wait for the number of dead latents.
        """
        n, dead = self.most_dead, self.dead
        into = torch.where(dead, dead.cumsum(0) - 1, n).clamp_max(n)  # place n is for the living, and is dropped
        every = torch.arange(len(dead), device=dead.device)
        places = every.new_zeros(n + 1).scatter_(0, into, every)[:n]
        unused = torch.arange(n, device=dead.device) >= dead.sum()
        return places, torch.zeros_like(unused, dtype=self.sae.W_dec.dtype).masked_fill_(unused, -math.inf)

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

    def count(self, tokens: int, fired: Bool[Tensor, " d_sae"], least: Float[Tensor, ""] | None) -> None:
        """Count a step that has been made: its tokens, the latents that fired, the least value kept (inf: none)."""
        self.silent_tokens += tokens
        self.silent_tokens.masked_fill_(fired, 0)
        self.steps_done += 1
        if least is not None:
            some, one = least < math.inf, torch.ones_like(self.ill)
            self.least = torch.where(some, LEAST_DECAY * self.least + torch.stack([least.double(), one]), self.least)
            mean = (self.least[0] / self.least[1]).to(self.sae.threshold.dtype)
            self.sae.threshold.copy_(torch.where(some, mean, self.sae.threshold))

    def state(self) -> dict[str, Any]:
        """Everything but the weights, as JSON data and tensors (not copied)."""
        return {
            "steps_done": self.steps_done,
            "silent_tokens": self.silent_tokens,
            "moments": self.moments,
            "least": self.least.tolist(),
            "most_dead": [self._most_dead, self.look_every],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``state``; the weights are put in place by the caller."""
        self.steps_done = state["steps_done"]
        self.least = torch.tensor(state["least"], dtype=torch.float64, device=self.least.device)
        self.silent_tokens.copy_(state["silent_tokens"])
        found, every = state.get("most_dead") or (None, None)  # earlier releases did not keep it
        self._most_dead = found if every == self.look_every else None  # else it is counted anew
        for name, parts in self.moments.items():
            for part, tensor in parts.items():
                tensor.copy_(state["moments"][name][part])


def require_trainable_on(device: torch.device) -> None:
    """See that sums can be kept in float64 there.

    Raises:
        ConfigError: they cannot.
    """
    if device.type == "mps":
        raise ConfigError("SAEs are not trained on mps, which has no float64 for their sums: move the batches to cpu.")


def weights(sae: SAE) -> dict[str, Tensor]:
    """The weights as an optimiser sees them: matrices of latents with one contiguous row for each latent."""
    found = {"W_dec": sae.W_dec.data, "W_enc": sae.W_enc.data.T, "b_enc": sae.b_enc.data, "b_dec": sae.b_dec.data}
    if sae.config.activation == "jumprelu":
        found["threshold"] = sae.threshold.data
    return found | ({"W_skip": sae.W_skip.data} if sae.config.skip else {})
