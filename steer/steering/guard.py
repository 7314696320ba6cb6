"""What edits of latents compute against what the SAE itself computes, seen once before an SAE is first used."""

import weakref

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saes import SAE, SparseCodes
from steer.errors import PlanError

_TOKENS = 8
_ALLOWED = 1e-4  # of the largest value: sums in float32, in another order
_seen: "weakref.WeakSet[SAE]" = weakref.WeakSet()


def check_edits(sae: SAE) -> None:
    """Compare, on random activations, the fast way to latents and changes with ``encode`` and ``decode``.

    An edit reads ``activations_of`` and adds ``(a' - a) g(x) W_dec[i]``; the SAE reads ``encode``, and the change is
    ``decode(a') - decode(a)``. Where a file is read wrongly (normalisation, centring, rescaling, a transposed matrix),
    or a subclass computes something else, the two differ. Each SAE object is looked at once.

    Raises:
        PlanError: they differ.
    """
    if sae in _seen:
        return
    with torch.no_grad():
        x, index = _probe(sae)
        codes = sae.encode(x)
        dense = codes.to_dense()
        now, own = sae.activations_of(x, index), dense[:, index]
        tied = now == torch.where(codes.values > 0, codes.values, torch.inf).amin(-1, keepdim=True)
        _compare("activations_of gives other latents than encode", now, own, ~tied)
        edited = dense.clone()
        edited[:, index] = own + dense.amax().clamp_min(1.0)
        changed = SparseCodes(torch.arange(dense.shape[1], device=x.device).expand_as(edited), edited, dense.shape[1],
                              codes.scale, codes.shift)  # fmt: skip
        change = (edited[:, index] - own) @ sae.W_dec[index]
        scale, out = sae.output_scale(x), sae.decode(codes, x)
        _compare(
            "(a' - a) W_dec is another change than decode(a') - decode(a)",
            change if scale is None else change * scale,
            sae.decode(changed, x) - out,
            rounding=1e-6 * out.abs().max().item(),
        )
    _seen.add(sae)


def _probe(sae: SAE) -> tuple[Float[Tensor, "token d_in"], Int[Tensor, " n"]]:
    """Activations on which latents fire, and some of the latents that do and do not."""
    generator, config = torch.Generator().manual_seed(0), sae.config
    some = torch.linspace(0, config.d_sae - 1, min(_TOKENS, config.d_sae)).long()
    directions = torch.nn.functional.normalize(sae.W_enc.detach().cpu().float()[:, some].T, dim=1)
    noise = torch.randn(len(some), config.d_in, generator=generator)
    x = (directions * config.d_in**0.5 + noise) / config.input_scale
    x = (x + sae.b_dec.detach().cpu() if config.subtract_b_dec else x).to(sae.W_dec.device)
    strongest = sae.pre_activations(x).argmax(-1).cpu()
    return x, torch.cat([some, strongest]).unique().to(x.device)


def _compare(what: str, one: Tensor, other: Tensor, where: Tensor | None = None, rounding: float = 0.0) -> None:
    apart = (one - other).abs()
    if where is not None:
        apart = apart * where
    largest = max(other.abs().max().item(), torch.finfo(torch.float32).tiny)
    if not apart.max().item() <= _ALLOWED * largest + rounding:  # NaN is not
        raise PlanError(
            f"This SAE cannot be edited: on random activations {what}, by {apart.max().item() / largest:.1e} of the "
            "largest. Its files were read wrongly, or it computes otherwise than saes.SAE: load it with load_sae."
        )
