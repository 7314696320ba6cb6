"""One training step of a top-k SAE, without a dense gradient: loss, gradients, clipping, Adam.

Only the encoder's product touches every latent of every token. The gradients below are those that autograd would give
for ``fvu + auxk_weight * auxk`` (``saes.losses``); the tests compare them on every weight.
"""

from dataclasses import dataclass, field
from types import ModuleType

import torch

from saes.auxk import AuxK, auxk
from saes.config import TrainConfig
from saes.kernels import kernels_for
from saes.kernels.eager import AdamStep, Memory, WeightGrads
from saes.sae import SAE
from saes.shapes import Bool, Float, Int, Tensor

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


@dataclass
class Training:
    """An SAE in training: what one step changes, and a checkpoint holds."""

    sae: SAE
    config: TrainConfig
    steps_done: int = 0
    silent_tokens: Int[Tensor, " d_sae"] = field(init=False)
    """Tokens since each latent last fired."""
    moments: dict[str, tuple[Tensor, Tensor]] = field(init=False)
    """Adam's two averages for each weight; the encoder's as its transpose."""
    grads: WeightGrads = field(init=False)
    memory: Memory = field(init=False, default_factory=dict)
    """Large tensors that last from step to step, whatever they hold."""

    def __post_init__(self) -> None:
        sae = self.sae
        self.silent_tokens = torch.zeros(sae.config.d_sae, dtype=torch.long, device=sae.W_dec.device)
        self.grads = WeightGrads.empty(sae.W_dec.data, sae.W_enc.data)
        self.moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in weights(sae).items()}

    @property
    def dead(self) -> Bool[Tensor, " d_sae"]:
        """Latents that have been silent for so many tokens that they count as dead."""
        return self.silent_tokens > self.config.dead_after_tokens


@dataclass(frozen=True)
class StepFacts:
    """What a step tells."""

    fvu: float
    """Fraction of variance unexplained of the batch, before the step."""
    loss: float
    """The same with the AuxK loss."""
    l0: float
    """Mean number of active latents."""


def weights(sae: SAE) -> dict[str, Tensor]:
    """The weights as Adam sees them: one contiguous row for each latent."""
    return {"W_dec": sae.W_dec.data, "W_enc": sae.W_enc.data.T, "b_enc": sae.b_enc.data, "b_dec": sae.b_dec.data}


@torch.no_grad()
def step(training: Training, x: Float[Tensor, "token d_in"], lr: float) -> StepFacts:
    """Train on one batch; weights, moments and counters are changed in place.

    A loss that is not finite is returned as it is, and then nothing has been changed.
    """
    sae, config = training.sae, training.config
    kernels = kernels_for(x.device)
    variance = kernels.variance(x)
    centred = x - sae.b_dec
    encoder = (sae.W_enc.data, sae.b_enc.data)
    indices, values = kernels.encode_topk(centred, *encoder, sae.config.k, config.selection, training.memory)
    values.relu_()
    made = kernels.reconstruct(indices, values, sae.W_dec.data, sae.b_dec.data, x, 2 / variance)
    # a latent at zero has no gradient: the ReLU is flat there
    pairs = Pairs(indices, values, made.grads * (values > 0), made.g)
    fvu = made.squares.sum().item() / variance
    aux = _auxk(training, kernels, centred, made.g * (-variance / 2))
    facts = StepFacts(fvu, fvu + (aux.loss if aux else 0.0), (values > 0).sum().item() / len(x))
    if not facts.loss < float("inf"):
        return facts

    grads = training.grads
    kernels.weight_grads(pairs.indices, pairs.values, pairs.grads, pairs.g, centred, grads)
    if aux:
        aux.add_to(grads)
    all_grads = {"W_dec": grads.decoder, "W_enc": grads.encoder, "b_enc": grads.bias}
    all_grads["b_dec"] = made.g.sum(0) - sae.W_enc.data @ grads.bias
    squares = grads.squares.double().sum() - grads.radial.double().square().sum()
    squares += sum(torch.linalg.vector_norm(all_grads[name]).double() ** 2 for name in ("b_enc", "b_dec"))
    clip = min(1.0, config.grad_clip / (squares.item() ** 0.5 + 1e-6))
    adam = AdamStep(lr, BETA1, BETA2, EPS, training.steps_done + 1, clip)
    for name, weight in weights(sae).items():
        kernels.adam_(weight, all_grads[name], *training.moments[name], adam, project=name == "W_dec")

    training.silent_tokens += len(x)
    training.silent_tokens[indices[values > 0]] = 0
    training.steps_done += 1
    return facts


@dataclass(frozen=True)
class Pairs:
    """The active latents of each token, and what a loss says of them."""

    indices: Int[Tensor, "token k"]
    values: Float[Tensor, "token k"]
    grads: Float[Tensor, "token k"]
    """Gradient with respect to the values, zero where the ReLU is flat: a latent at zero learns nothing."""
    g: Float[Tensor, "token d_in"]
    """Gradient with respect to their reconstruction."""


def _auxk(
    training: Training,
    kernels: ModuleType,
    centred: Float[Tensor, "token d_in"],
    residual: Float[Tensor, "token d_in"],
) -> AuxK | None:
    """The weighted AuxK loss and its gradients (``saes.losses.auxk``); None where no latent is dead."""
    weight, dead = training.config.auxk_weight, training.dead.nonzero().squeeze(-1)
    if not len(dead) or not weight:
        return None
    sae = training.sae
    rows = (sae.W_enc.data.T[dead], sae.b_enc.data[dead], sae.W_dec.data[dead])
    scale = weight / kernels.variance(residual)
    return auxk(dead, *rows, centred, residual, scale, min(sae.config.d_in // 2, len(dead)), kernels)
