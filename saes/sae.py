"""The top-k sparse autoencoder."""

import copy

import torch
from torch import nn

from saes.codes import SparseCodes
from saes.config import SAEConfig
from saes.errors import ConfigError, ShapeError
from saes.shapes import Float, Int, Tensor


class SAE(nn.Module):
    """Top-k sparse autoencoder (Gao et al., arXiv 2406.04093, eq. 2-3).

    ``a = topk(relu((x - b_dec) W_enc + b_enc))`` and ``x_hat = a W_dec + b_dec``; the rows of ``W_dec`` have norm 1.
    ``W_enc``: [d_in, d_sae], ``W_dec``: [d_sae, d_in], ``b_enc``: [d_sae], ``b_dec``: [d_in].
    """

    def __init__(self, config: SAEConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        rows = _random_rows(config, seed)
        self.W_dec = nn.Parameter(rows)
        self.W_enc = nn.Parameter(rows.T.clone())  # tied at the start: fewer dead latents (appendix A.1)
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))
        self.b_dec = nn.Parameter(torch.zeros(config.d_in))

    def pre_activations(self, x: Float[Tensor, "*token d_in"]) -> Float[Tensor, "*token d_sae"]:
        """What the encoder computes before the top-k selection, negative values set to zero.

        Raises:
            ShapeError: the last axis of ``x`` is not ``d_in`` wide.
        """
        if x.shape[-1] != self.config.d_in:
            raise ShapeError(
                f"The SAE reads activations of width {self.config.d_in}, got width {x.shape[-1]}. "
                "Use the model and the site that it was trained on."
            )
        return torch.relu((x - self.b_dec) @ self.W_enc + self.b_enc)

    def encode(self, x: Float[Tensor, "*token d_in"]) -> SparseCodes:
        """The k strongest latents of each token."""
        values, indices = self.pre_activations(x).topk(self.config.k, dim=-1, sorted=False)
        return SparseCodes(indices, values, self.config.d_sae)

    def decode(self, codes: SparseCodes) -> Float[Tensor, "*token d_in"]:
        """The reconstruction ``a W_dec + b_dec``."""
        return codes.to_dense() @ self.W_dec + self.b_dec

    def forward(self, x: Float[Tensor, "*token d_in"]) -> Float[Tensor, "*token d_in"]:
        """Encode and decode."""
        return self.decode(self.encode(x))

    def activations_of(
        self, x: Float[Tensor, "*token d_in"], latents: Int[Tensor, "*rows n"]
    ) -> Float[Tensor, "*token n"]:
        """What ``encode`` gives for a few chosen latents, without sorting all of them.

        ``latents`` holds n latent indices, or n for each row (the first axis of ``x``). A latent is among the k
        strongest exactly if fewer than k pre-activations exceed its own, so a comparison replaces the selection.
        """
        pre = self.pre_activations(x)
        index = latents.reshape(*latents.shape[:-1], *[1] * (x.ndim - latents.ndim), latents.shape[-1])
        chosen = pre.gather(-1, index.expand(*x.shape[:-1], -1))
        stronger = torch.stack([_count_above(pre, one) for one in chosen.unbind(-1)], dim=-1)
        return chosen * (stronger < self.config.k)

    def on(self, device: torch.device) -> "SAE":
        """The SAE itself if it is on ``device``, else a copy there."""
        return self if self.W_dec.device == device else copy.deepcopy(self).to(device)

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Give every row of ``W_dec`` norm 1."""
        self.W_dec.div_(self.W_dec.norm(dim=-1, keepdim=True).clamp_min(1e-12))


def tensor_shapes(config: SAEConfig) -> dict[str, list[int]]:
    """Names and shapes of an SAE's tensors, without making any."""
    d_in, d_sae = config.d_in, config.d_sae
    return {"W_dec": [d_sae, d_in], "W_enc": [d_in, d_sae], "b_enc": [d_sae], "b_dec": [d_in]}


def _random_rows(config: SAEConfig, seed: int) -> Float[Tensor, "d_sae d_in"]:
    """Random directions of norm 1.

    Raises:
        ConfigError: an SAE of this size does not fit into memory.
    """
    try:
        rows = torch.randn(config.d_sae, config.d_in, generator=torch.Generator().manual_seed(seed))
    except RuntimeError as error:  # torch has no error of its own for memory on a CPU
        raise ConfigError(
            f"An SAE with d_sae = {config.d_sae} and d_in = {config.d_in} does not fit into memory. Lower d_sae."
        ) from error
    return rows / rows.norm(dim=-1, keepdim=True)


def _count_above(pre: Float[Tensor, "*token d_sae"], threshold: Float[Tensor, "*token"]) -> Float[Tensor, "*token"]:
    """Number of pre-activations above a token's threshold.

    Written as floats: summing what a comparison gives as booleans takes ten times as long on a CPU.
    """
    above = torch.empty_like(pre, dtype=torch.float32)
    return torch.gt(pre.detach(), threshold.detach().unsqueeze(-1), out=above).sum(-1)
