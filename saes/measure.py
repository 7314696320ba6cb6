"""What an SAE is worth on held-out activations."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from saes.batches import require_iterable
from saes.errors import ShapeError
from saes.metrics.block import Batch, blocks_of, require_size
from saes.metrics.likeness import LikenessSums
from saes.metrics.position import PositionNorms, PositionSums
from saes.metrics.sparsity import Firing, SparsitySums
from saes.metrics.variance import FvuSums, TextSums
from saes.sae import SAE

BLOCK_TOKENS = 2048


@dataclass(frozen=True)
class Quality:
    """Measurements over all tokens given.

    Three names end in what they depend on: these definitions are in use elsewhere, and are given to compare with.
    """

    tokens: int
    fvu: float
    """Fraction of variance unexplained: total squared error over total variance around the mean of all tokens."""
    fvu_per_batch: float
    """The same of each full block about the block's mean, then the mean over blocks (sparsify; SAELens' training log).
    A shorter last block counts only where there is no full one."""
    fvu_per_batch_centred: float
    """The same with the block's mean error taken off first, so that a constant error is not seen
    (dictionary_learning)."""
    fvu_per_token: float
    """Mean over tokens of a token's squared error over its squared distance from the block's mean
    (``explained_variance_legacy`` of SAEBench and SAELens is 1 less this)."""
    block_tokens: int
    """Size of these blocks, in tokens."""
    mse: float
    """Mean squared error of a dimension of a token, in squared units of the activations."""
    cosine: float
    """Mean over tokens of the cosine between input and reconstruction."""
    relative_norm: float
    """Mean over tokens of the reconstruction's norm over the input's (1: no shrinkage)."""
    reconstruction_bias: float
    """``E|x_hat|^2 / E[x . x_hat]``; below 1: reconstructions are too short (arXiv 2404.16014, eq. 10)."""
    l0: float
    """Mean number of active latents per token."""
    l0_counts: tuple[int, ...]
    """Number of tokens with 0, 1, 2, ... active latents."""
    l1: float
    """Mean sum of the activations of a token."""
    dead_fraction: float
    """Share of the latents that never fired on these tokens."""
    positions: PositionNorms | None = field(default=None, compare=False, repr=False)
    """Norms by position in the text, where positions were given."""
    texts: TextSums | None = field(default=None, compare=False, repr=False)
    """What ``fvu`` is made of by text, where texts were given."""

    @property
    def explained_variance(self) -> float:
        """``1 - fvu``."""
        return 1 - self.fvu


@torch.no_grad()
def measure(sae: SAE, batches: Iterable[Batch], block_tokens: int = BLOCK_TOKENS) -> tuple[Quality, Firing]:
    """Run the SAE over batches of activations, shape [token, d_in], or ``Placed`` ones.

    A transcoder needs those of both sites, as dicts from the site's name to a tensor, or ``Placed`` with ``y``; then
    input means what stands where it writes, in all that compares the two.

    Sums are kept in float64, over blocks of ``block_tokens`` tokens that the batches are cut into anew: cutting the
    same tokens into other batches changes no bit, another order only the three metrics of blocks.

    Raises:
        ShapeError: no tokens were given, or all are equal, or a batch is not of shape [token, d_in], not finite, or of
            another dtype or device than the first; or ``block_tokens`` is no whole number of at least 1.
        ConfigError: a batch lacks a site that the SAE reads or writes; or ``batches`` is no iterable.
    """
    require_iterable(batches)
    require_size(block_tokens)
    variance, likeness, positions = FvuSums(block_tokens), LikenessSums(), PositionSums()
    sparsity = SparsitySums(sae.config.d_sae, sae.W_dec.device)
    error = 0.0
    for block in blocks_of(sae, batches, block_tokens):
        error += block.error.sum().item()
        for sums in (variance, likeness, positions, sparsity):
            sums.add(block)
    tokens = sparsity.tokens
    if tokens == 0:
        raise ShapeError("No activations to measure on: got 0 tokens. Give at least one batch.")
    fvu, like, l0_counts = variance.result(), likeness.result(), sparsity.l0_counts.tolist()
    if not fvu.fvu < math.inf:  # NaN too
        raise ShapeError(f"All {tokens} tokens have equal activations: there is no variance to explain. Give others.")
    quality = Quality(
        tokens=tokens,
        fvu=fvu.fvu,
        fvu_per_batch=fvu.per_batch,
        fvu_per_batch_centred=fvu.per_batch_centred,
        fvu_per_token=fvu.per_token,
        block_tokens=block_tokens,
        mse=error / tokens / sae.config.width_out,
        cosine=like.cosine,
        relative_norm=like.relative_norm,
        reconstruction_bias=like.reconstruction_bias,
        l0=sum(active * count for active, count in enumerate(l0_counts)) / tokens,
        l0_counts=tuple(l0_counts),
        l1=sparsity.l1 / tokens,
        dead_fraction=(sparsity.counts == 0).double().mean().item(),
        positions=positions.result(),
        texts=fvu.texts,
    )
    return quality, sparsity.firing()
