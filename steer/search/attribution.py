"""What each latent contributes to a difference of logits: gradient times activation, and integrated gradients.

Attribution patching through an SAE (Marks et al., arXiv 2403.19647, section 3.1; arXiv 2505.23556): the
reconstruction's error stays in place, so that the model computes exactly what it computes, and each latent's part is
``sum_t a_i(t) g(t) W_dec[i] . dM/dx(t)``.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saes import SAE, SparseCodes
from steer.checks import require_whole
from steer.errors import DataError
from steer.models.batches import batches_of
from steer.models.chat import Conversation
from steer.models.hooks import attached
from steer.models.model import LanguageModel
from steer.models.passes import Pass, positions_of
from steer.models.site import Site
from steer.models.tokens import Tokens
from steer.search.policy import IndexPolicy

MOST_STEPS = 10_000
BATCH = 16  # rows whose pass is held for the gradient


def attributions(
    lm: LanguageModel,
    sae: SAE,
    site: Site,
    prompts: Sequence[str | Conversation],
    toward: int,
    against: int,
    steps: int | None = None,
    policy: IndexPolicy | None = None,
) -> Float[np.ndarray, " d_sae"]:
    """Mean over prompts of what each latent adds to ``logit(toward) - logit(against)`` where the reply begins.

    Activations of all tokens but the first of each row count, without those that the ``policy`` leaves out. With
    ``steps`` None the gradient is taken where the model is; else it is the mean of those at so many points on the way
    from all latents off to all as they are, at the middles of equal steps (integrated gradients, arXiv 1703.01365),
    whose sum over latents is, up to the steps' coarseness, what switching them all on adds.

    Raises:
        DataError: there is no prompt, the tokens are one, ``steps`` is below 1 or above
            ``MOST_STEPS``, or this is a transcoder.
    """
    if not prompts:
        raise DataError("An attribution needs at least one prompt.")
    if toward == against:
        raise DataError(f"An attribution needs two tokens that differ, got {toward} twice.")
    if steps is not None:
        require_whole("steps", steps, DataError)
        if steps > MOST_STEPS:
            raise DataError(
                f"steps must be at most {MOST_STEPS:,}, got {steps:,}: each is a pass of the model. Lower it."
            )
    if sae.config.is_transcoder:
        raise DataError("Attribution is through an SAE that writes where it reads, and this is a transcoder.")
    held, rows = sae.on(lm.device), lm.prompt_ids(prompts)
    total = np.zeros(sae.config.d_sae)
    for batch in batches_of([len(row) for row in rows], BATCH):
        total += _of_batch(lm, held, site, lm.pad([rows[i] for i in batch]), (toward, against), steps, policy)
    return total / len(rows)


def _of_batch(
    lm: LanguageModel,
    sae: SAE,
    site: Site,
    tokens: Tokens,
    pair: tuple[int, int],
    steps: int | None,
    policy: IndexPolicy | None,
) -> Float[np.ndarray, " d_sae"]:
    """The sum over the rows of a batch."""
    x = lm.activations(tokens, [site])[site].float()
    counted = (tokens.mask > 0) & (positions_of(tokens.mask) > 0)
    if policy is not None:
        for row, length in enumerate(tokens.mask.sum(1).tolist()):
            counted[row, -length:] &= policy.mask(tokens.ids[row, -length:].tolist(), x[row, -length:])
    with torch.no_grad():
        codes = sae.encode(x)
        written = _written(sae, codes) * counted.unsqueeze(-1)
    points = [1.0] if steps is None else [(step + 0.5) / steps for step in range(steps)]
    gradient = torch.zeros_like(x)
    for point in points:
        gradient += _gradient(lm, site, tokens, (point - 1) * written, pair) / len(points)
    return _by_latent(sae, codes, gradient, counted)


def _written(sae: SAE, codes: SparseCodes) -> Float[Tensor, "batch seq d_model"]:
    """What the latents add to the activations, without the decoder's bias."""
    out = codes.to_dense() @ sae.W_dec.detach()
    return out if codes.scale is None else out * codes.scale


def _gradient(
    lm: LanguageModel, site: Site, tokens: Tokens, change: Float[Tensor, "batch seq d_model"], pair: tuple[int, int]
) -> Float[Tensor, "batch seq d_model"]:
    """Of the difference of logits of the last tokens, with respect to the activations at a site once changed."""
    probe = torch.zeros_like(change, requires_grad=True)

    def edit(x: Tensor, at: Pass) -> Tensor:
        return (x.float() + change + probe).to(x.dtype)

    with lm.lock, attached(lm.layout, {site: edit}), torch.enable_grad():
        output = lm.model(
            input_ids=tokens.ids,
            attention_mask=tokens.mask,
            position_ids=positions_of(tokens.mask),
            use_cache=False,
            logits_to_keep=1,
        )
        logits = output.logits[:, -1].float()
        (found,) = torch.autograd.grad((logits[:, pair[0]] - logits[:, pair[1]]).sum(), probe)
    return found.detach()


@torch.no_grad()
def _by_latent(
    sae: SAE, codes: SparseCodes, gradient: Float[Tensor, "batch seq d_model"], counted: Bool[Tensor, "batch seq"]
) -> Float[np.ndarray, " d_sae"]:
    """``sum_t a_i(t) g(t) W_dec[i] . gradient(t)``, of the latents that are active."""
    weights = codes.values if codes.scale is None else codes.values * codes.scale
    rows = sae.W_dec.detach()
    found = np.zeros(sae.config.d_sae)
    for row in range(len(gradient)):
        kept = counted[row]
        indices, values = codes.indices[row][kept], weights[row][kept]
        slopes = torch.stack([rows[of] @ slope for of, slope in zip(indices, gradient[row][kept], strict=True)])
        own = (values * slopes).double().cpu().numpy().ravel()
        found += np.bincount(indices.cpu().numpy().ravel(), own, minlength=len(found))
    return found
