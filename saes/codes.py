"""Sparse codes: which latents are active on each token, and how strongly."""

from dataclasses import dataclass

import torch

from saes.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class SparseCodes:
    """The active latents of each token. A value of zero marks an unused place."""

    indices: Int[Tensor, "*token k"]
    values: Float[Tensor, "*token k"]
    d_sae: int
    """Number of latents of the SAE that made the codes."""
    scale: Float[Tensor, "*token 1"] | None = None
    """What the decoded tokens are multiplied by, where each token was normalised; None: 1."""
    shift: Float[Tensor, "*token 1"] | None = None
    """What is then added; None: 0."""

    def to_dense(self) -> Float[Tensor, "*token d_sae"]:
        """The same codes with one column per latent, shape [*token, d_sae]."""
        dense = torch.zeros(*self.values.shape[:-1], self.d_sae, dtype=self.values.dtype, device=self.values.device)
        return dense.scatter(-1, self.indices, self.values)

    def active(self) -> Float[Tensor, "*token"]:
        """Number of active latents of each token (its L0), as floats of shape [*token]."""
        return (self.values > 0).sum(-1).to(self.values.dtype)
