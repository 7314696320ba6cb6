"""One training step of a top-k SAE, without a dense gradient: loss, gradients, clipping, Adam.

Only the encoder's product touches every latent of every token. The gradients below are those that autograd would give
for ``fvu + auxk_weight * auxk`` (``saes.losses``); the tests compare them on every weight.
"""

from dataclasses import dataclass, field
from types import ModuleType

import torch

from saes.config import TrainConfig
from saes.errors import ShapeError
from saes.kernels import kernels_for
from saes.kernels.eager import AdamStep, WeightGrads
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
    pre: Float[Tensor, "token d_sae"] | None = field(init=False, default=None)
    """Memory for the pre-activations of a batch."""

    def __post_init__(self) -> None:
        sae = self.sae
        if not sae.W_enc.data.T.is_contiguous():  # the step writes to its rows in place, one for each latent
            sae.W_enc.data = sae.W_enc.data.T.contiguous().T
        self.silent_tokens = torch.zeros(sae.config.d_sae, dtype=torch.long, device=sae.W_dec.device)
        empty = {name: torch.empty_like(p) for name, p in weights(sae).items()}
        self.grads = WeightGrads(empty["W_dec"], empty["W_enc"], empty["b_enc"])
        self.moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in weights(sae).items()}

    def pre_activations(self, centred: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_sae"]:
        """The encoder's product, before the ReLU."""
        if self.pre is None or len(self.pre) != len(centred):
            self.pre = centred.new_empty(len(centred), self.sae.config.d_sae)
        return torch.addmm(self.sae.b_enc, centred, self.sae.W_enc, out=self.pre)

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

    Raises:
        ShapeError: all activations are equal.
    """
    sae, config = training.sae, training.config
    kernels = kernels_for(x.device)
    variance = (x - x.mean(0)).square().sum().item()
    if variance == 0:
        raise ShapeError("All activations of a batch are equal, so there is nothing to learn: check the site.")
    centred = x - sae.b_dec
    pre = training.pre_activations(centred)
    indices, values = kernels.topk(pre, sae.config.k)
    values.relu_()
    made = kernels.reconstruct(indices, values, sae.W_dec.data, sae.b_dec.data, x, 2 / variance)
    # a latent at zero has no gradient: the ReLU is flat there
    pairs = Pairs(indices, values, made.grads * (values > 0), made.g)
    fvu = made.squares.sum().item() / variance
    aux_loss, aux = _auxk(training, kernels, pre, made.g * (-variance / 2))
    facts = StepFacts(fvu, fvu + aux_loss, (values > 0).sum().item() / len(x))
    if not facts.loss < float("inf"):
        return facts

    grads = training.grads
    radial = _weight_grads(kernels, [pairs, *aux], centred, grads)
    all_grads = {"W_dec": grads.decoder, "W_enc": grads.encoder, "b_enc": grads.bias}
    all_grads["b_dec"] = made.g.sum(0) - sae.W_enc.data @ grads.bias
    squares = (
        sum(torch.linalg.vector_norm(grad).item() ** 2 for grad in all_grads.values()) - radial.square().sum().item()
    )
    # the radial part comes from other sums than the norms, so that rounding can leave less than nothing
    clip = min(1.0, config.grad_clip / (max(0.0, squares) ** 0.5 + 1e-6))
    adam = AdamStep(lr, BETA1, BETA2, EPS, training.steps_done + 1, clip)
    for name, weight in weights(sae).items():
        kernels.adam_(weight, all_grads[name], *training.moments[name], adam, project=name == "W_dec")

    fired = torch.zeros_like(training.silent_tokens, dtype=torch.bool)
    fired[indices[values > 0]] = True
    training.silent_tokens += len(x)
    training.silent_tokens[fired] = 0
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
    training: Training, kernels: ModuleType, pre: Float[Tensor, "token d_sae"], residual: Float[Tensor, "token d_in"]
) -> tuple[float, list[Pairs]]:
    """The weighted AuxK loss and its pairs: dead latents reconstruct what the living leave (``saes.losses.auxk``)."""
    weight, dead = training.config.auxk_weight, training.dead.nonzero().squeeze(-1)
    if not len(dead) or not weight:
        return 0.0, []
    sae = training.sae
    places, values = kernels.topk(pre[:, dead], min(sae.config.d_in // 2, len(dead)))
    values.relu_()
    indices = dead[places]
    variance = (residual - residual.mean(0)).square().sum().item()
    if variance == 0:  # the living leave nothing to reconstruct
        return 0.0, []
    made = kernels.reconstruct(indices, values, sae.W_dec.data, None, residual, 2 * weight / variance)
    loss = weight * made.squares.sum().item() / variance
    return loss, [Pairs(indices, values, made.grads * (values > 0), made.g)]


def _weight_grads(
    kernels: ModuleType, terms: list[Pairs], x: Float[Tensor, "token d_in"], into: WeightGrads
) -> Float[Tensor, " d_sae"]:
    """Sum the weights' gradients over the terms of the loss; returns the part of the decoder's along its rows.

    That part is ``W_dec[i] . sum_p a_p g_p = sum_p a_p (g_p . W_dec[i])``, so it follows from the pairs alone.
    """
    radial = torch.zeros_like(into.bias)
    for number, one in enumerate(terms):
        kernels.weight_grads(one.indices, one.values, one.grads, one.g, x, into, add=number > 0)
        radial.index_add_(0, one.indices.flatten(), (one.values * one.grads).flatten())
    return radial
