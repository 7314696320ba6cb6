"""The sparse autoencoder, with any of the activations."""

import copy
import itertools
from collections.abc import Mapping

import torch
from torch import nn

from saes.chosen import chosen_pre_activations, count_above, topk_activations
from saes.codes import SparseCodes
from saes.config import SAEConfig
from saes.errors import ConfigError, ShapeError
from saes.normalise import Normalised, normalise
from saes.seeds import derived
from saes.select import Selected, above, topk
from saes.shapes import Float, Int, Tensor

CHUNK_ROWS = 2**16  # drawn at a time
FEW = 2048  # latents of which all are encoded where some are asked for


class SAE(nn.Module):
    """Sparse autoencoder, or transcoder, over activations of width ``d_in`` (Gao et al., arXiv 2406.04093, eq. 2-3).

    ``a = select(relu((x - b_dec) W_enc + b_enc))`` and ``x_hat = a W_dec + b_dec``, where ``select`` keeps the k
    largest (``topk``), those above a threshold (``jumprelu``: one for each latent; ``batch_topk``: one for all) or all
    that are positive (``relu``). With ``subtract_b_dec=False`` the encoder reads x itself; a skip transcoder adds
    ``x W_skip``.

    ``W_enc``: [d_in, d_sae], ``W_dec``: [d_sae, d_out], ``b_enc``: [d_sae], ``b_dec``: [d_out]; where they apply,
    ``threshold``: [d_sae] or [], ``W_skip``: [d_in, d_out]. The rows of ``W_dec`` have norm 1 after training here.
    """

    W_dec: Tensor
    W_enc: Tensor
    b_enc: Tensor
    b_dec: Tensor
    threshold: Tensor
    W_skip: Tensor

    def __init__(self, config: SAEConfig, seed: int = 0, latents: range | None = None) -> None:
        """Random weights drawn from ``seed``.

        In training on many processes an object may hold some of the ``latents`` only (None: it holds all). They have
        the weights that they have in the whole.
        """
        super().__init__()
        self.config = config
        self.latents = range(config.d_sae) if latents is None else latents
        self._hold(_drawn(config, seed, self.latents))

    @classmethod
    def from_tensors(cls, config: SAEConfig, tensors: Mapping[str, Tensor], latents: range | None = None) -> "SAE":
        """An SAE with given weights, copied to float32 and held as training reads them. No random weights are drawn.

        Raises:
            ShapeError: a tensor is missing, not expected, or of another shape than ``tensor_shapes`` gives.
        """
        held = range(config.d_sae) if latents is None else latents
        expected, got = tensor_shapes(config, held), {name: list(tensor.shape) for name, tensor in tensors.items()}
        if got != expected:
            raise ShapeError(f"An SAE of this config has the tensors {expected}, got {got}. Check the config.")
        sae = cls.__new__(cls)
        nn.Module.__init__(sae)
        sae.config, sae.latents = config, held
        sae._hold(
            {name: _copied(tensors[name].T).T if name == "W_enc" else _copied(tensors[name]) for name in expected}
        )
        return sae

    def _hold(self, tensors: Mapping[str, Tensor]) -> None:
        """Register the weights; all are trained but the threshold of ``batch_topk``, which is measured."""
        for name, tensor in tensors.items():
            if name == "threshold" and self.config.activation == "batch_topk":
                self.register_buffer(name, tensor)
            else:
                self.register_parameter(name, nn.Parameter(tensor))

    def pre_activations(self, x: Float[Tensor, "*token d_in"]) -> Float[Tensor, "*token d_sae"]:
        """What the encoder computes before the selection, negative values set to zero.

        Raises:
            ShapeError: the last axis of ``x`` is not ``d_in`` wide.
        """
        self._check_width(x)
        return self._pre(self._read(x).x)

    def encode(self, x: Float[Tensor, "*token d_in"]) -> SparseCodes:
        """The active latents of each token.

        Raises:
            ShapeError: the last axis of ``x`` is not ``d_in`` wide.
        """
        self._check_width(x)
        read = self._read(x)
        pre = self._pre(read.x)
        indices, values = self._select(pre)
        return SparseCodes(indices, values, self.config.d_sae, read.scale, read.shift)

    def decode(
        self, codes: SparseCodes, x: Float[Tensor, "*token d_in"] | None = None
    ) -> Float[Tensor, "*token d_out"]:
        """The reconstruction ``a W_dec + b_dec``; a skip transcoder needs the input ``x`` too.

        Raises:
            ShapeError: a skip transcoder was not given ``x``.
        """
        self._check_whole()
        out = codes.to_dense() @ self.W_dec + self.b_dec
        if self.config.skip:
            if x is None:
                raise ShapeError("A skip transcoder adds a linear map of its input: call decode(codes, x).")
            out = out + x @ self.W_skip
        if codes.scale is not None:
            out = out * codes.scale
        return out if codes.shift is None else out + codes.shift

    def forward(self, x: Float[Tensor, "*token d_in"]) -> Float[Tensor, "*token d_out"]:
        """Encode and decode."""
        return self.decode(self.encode(x), x)

    def activations_of(
        self, x: Float[Tensor, "*token d_in"], latents: Int[Tensor, "*rows n"]
    ) -> Float[Tensor, "*token n"]:
        """What ``encode`` gives for a few chosen latents, without sorting all of them, up to rounding.

        ``latents`` holds n latent indices, or n for each row (the first axis of ``x``). A latent is among the k
        strongest exactly if fewer than k pre-activations exceed its own, so a comparison replaces the selection.
        """
        self._check_width(x)
        x, k = self._read(x).x, self.config.k if self.config.activation == "topk" else None
        index = latents.reshape(*latents.shape[:-1], *[1] * (x.ndim - latents.ndim), latents.shape[-1])
        if k is not None and (x.is_cuda or self.config.d_sae <= FEW):
            # all at once: no more work than that, or no waiting for the GPU to say whether more is needed
            pre = self._pre(x)
            chosen = pre.gather(-1, index.expand(*x.shape[:-1], -1))
            larger = torch.stack([count_above(pre, one) for one in chosen.unbind(-1)], dim=-1)
            return chosen * (larger < k)
        flat = x.reshape(-1, x.shape[-1])
        each = latents.unsqueeze(0) if latents.ndim == 1 else index.expand(*x.shape[:-1], -1).reshape(len(flat), -1)
        if k is not None:
            centre = self.b_dec if self.config.subtract_b_dec else None
            found = topk_activations(flat, centre, self.W_enc, self.b_enc, each, k)
        else:
            chosen, least = chosen_pre_activations(self._centred(flat), self.W_enc, self.b_enc, each), self._least()
            found = chosen * (chosen > (least[each] if least.ndim else least))
        return found.reshape(*x.shape[:-1], -1)

    def output_scale(self, x: Float[Tensor, "*token d_in"]) -> Float[Tensor, "*token 1"] | None:
        """What a latent's activation times its row of ``W_dec`` is multiplied by in the reconstruction; None: 1."""
        return self._read(x).scale

    def on(self, device: torch.device) -> "SAE":
        """The SAE itself if it is on ``device``, else a copy there."""
        return self if self.W_dec.device == device else copy.deepcopy(self).to(device)

    def _check_whole(self) -> None:
        if len(self.latents) != self.config.d_sae:
            raise ShapeError(
                f"This is a part of an SAE: it holds latents {self.latents.start} to {self.latents.stop - 1} of "
                f"{self.config.d_sae}. Load the whole SAE from the run folder."
            )

    def _check_width(self, x: Tensor) -> None:
        self._check_whole()
        if x.shape[-1] != self.config.d_in:
            raise ShapeError(
                f"The SAE reads activations of width {self.config.d_in}, got width {x.shape[-1]}. "
                "Use the model and the site that it was trained on."
            )

    def _read(self, x: Float[Tensor, "*token d_in"]) -> Normalised:
        return normalise(x, self.config.input_norm, self.config.norm_eps)

    def _pre(self, x: Float[Tensor, "*token d_in"]) -> Float[Tensor, "*token d_sae"]:
        return torch.relu(self._centred(x) @ self.W_enc + self.b_enc)

    def _centred(self, x: Float[Tensor, "*token d_in"]) -> Float[Tensor, "*token d_in"]:
        return x - self.b_dec if self.config.subtract_b_dec else x

    def _select(self, pre: Float[Tensor, "*token d_sae"]) -> Selected:
        if self.config.k is not None and self.config.activation == "topk":
            return topk(pre, self.config.k)
        return above(pre, self._least())

    def _least(self) -> Tensor:
        """What a pre-activation must exceed, [] or [d_sae]."""
        return self.W_dec.new_zeros(()) if self.config.activation == "relu" else self.threshold


def tensor_shapes(config: SAEConfig, latents: range | None = None) -> dict[str, list[int]]:
    """Names and shapes of an SAE's tensors, or of those for some latents, without making any."""
    d_in, d_sae, d_out = config.d_in, config.d_sae if latents is None else len(latents), config.width_out
    shapes = {"W_dec": [d_sae, d_out], "W_enc": [d_in, d_sae], "b_enc": [d_sae], "b_dec": [d_out]}
    if config.activation in ("jumprelu", "batch_topk"):
        shapes["threshold"] = [d_sae] if config.activation == "jumprelu" else []
    return shapes | ({"W_skip": [d_in, d_out]} if config.skip else {})


def _drawn(config: SAEConfig, seed: int, latents: range) -> dict[str, Tensor]:
    """Weights to start training from: random decoder rows of norm 1, zeros elsewhere.

    An autoencoder's encoder is tied to its decoder at the start, which leaves fewer dead latents (appendix A.1). A
    transcoder writes other activations than it reads, so that a direction of its output says nothing of its input, also
    where both have one width: its encoder is drawn on its own (as in sparsify, which does not tie it either).
    """
    d_sae = config.d_sae
    rows = _random_rows(d_sae, config.width_out, seed, latents)
    read = _random_rows(d_sae, config.d_in, derived(seed, "W_enc"), latents) if config.is_transcoder else rows.clone()
    drawn = {"W_dec": rows, "W_enc": read.T}  # a view: in memory one row for each latent, as the training step reads it
    return {
        name: drawn[name] if name in drawn else torch.zeros(side)
        for name, side in tensor_shapes(config, latents).items()
    }


def _copied(tensor: Tensor) -> Tensor:
    """A copy in float32, row by row in memory; a tensor that is mapped from a file would change with the file."""
    return torch.empty(tensor.shape, device=tensor.device).copy_(tensor)


def _random_rows(rows: int, width: int, seed: int, kept: range) -> Float[Tensor, "_ width"]:
    """Some rows of a matrix of random directions of norm 1.

    They are drawn in chunks of a multiple of 16 numbers, which gives what drawing them all at once does.

    Raises:
        ConfigError: an SAE of this size does not fit into memory.
    """
    try:
        drawn, generator = torch.empty(len(kept), width), torch.Generator().manual_seed(seed)
        starts = [*range(0, max(1, rows - CHUNK_ROWS + 1), CHUNK_ROWS), rows]  # the last chunk may be larger
        for start, stop in itertools.pairwise(starts):
            if start >= kept.stop:
                break
            chunk = torch.randn(stop - start, width, generator=generator)
            first, last = max(start, kept.start), min(stop, kept.stop)
            if first < last:
                drawn[first - kept.start : last - kept.start] = chunk[first - start : last - start]
    except RuntimeError as error:  # torch has no error of its own for memory on a CPU
        raise ConfigError(
            f"An SAE with d_sae = {rows} and width {width} does not fit into memory. Lower d_sae."
        ) from error
    return drawn.div_(drawn.norm(dim=-1, keepdim=True))
