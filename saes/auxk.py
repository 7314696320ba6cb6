"""Gradients of the AuxK loss (``saes.losses.auxk``), for the dead latents alone.

Up to d_in / 2 dead latents are active on each token, many times k, so dense products over their columns take less time
than sparse ones: four of them, each as much smaller than the encoder's as there are fewer dead latents than latents.
"""

from dataclasses import dataclass
from types import ModuleType

import torch

from saes.kernels.eager import WeightGrads
from saes.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class AuxK:
    """The loss, and its gradients with respect to the weights of n latents, among which are the dead ones."""

    loss: Float[Tensor, ""]
    dead: Int[Tensor, " n"]
    decoder: Float[Tensor, "n d_out"]
    encoder: Float[Tensor, "n d_in"]
    bias: Float[Tensor, " n"]
    radial: Float[Tensor, " n"]
    """Part of the decoder's along its rows; see ``WeightGrads``."""

    def add_to(self, grads: WeightGrads) -> None:
        """Add them to the gradients of all latents."""
        for name in ("decoder", "encoder", "bias", "radial"):
            getattr(grads, name).index_add_(0, self.dead, getattr(self, name))
        rows = (grads.decoder[self.dead], grads.encoder[self.dead])
        grads.squares[self.dead] = sum(part.square().sum(-1) for part in rows)


def auxk(
    dead: Int[Tensor, " n"],
    encoder: Float[Tensor, "n d_in"],
    bias: Float[Tensor, " n"],
    decoder: Float[Tensor, "n d_out"],
    centred: Float[Tensor, "token d_in"],
    residual: Float[Tensor, "token d_out"],
    scale: Float[Tensor, ""],
    k: int,
    kernels: ModuleType,
) -> AuxK:
    """``scale`` times the squared error of the ``k`` strongest dead latents on the residual, and its gradients.

    ``encoder``, ``bias`` and ``decoder`` are the rows of the dead latents; ``centred`` is what the encoder reads. A
    latent with a bias of -inf is never active, and its gradients are 0 (see ``Training.dead_places``).
    """
    pre = torch.mm(centred, encoder.T).add_(bias)
    if k < len(dead):
        places, values = kernels.topk(pre, k)
        pre = torch.zeros_like(pre).scatter_(-1, places, values)
    acts = pre.relu_()
    error = torch.mm(acts, decoder).sub_(residual)
    loss = scale * torch.linalg.vector_norm(error).double().square()
    g = error.mul_(2 * scale)
    grads = torch.mm(g, decoder.T).mul_(acts > 0)  # a latent at zero has no gradient: the ReLU is flat there
    return AuxK(
        loss=loss,
        dead=dead,
        decoder=torch.mm(acts.T, g),
        encoder=torch.mm(grads.T, centred),
        bias=grads.sum(0),
        radial=(acts * grads).sum(0),
    )
