"""``cosine_attribution``: latents along the refusal direction, ranked by what they contribute (arXiv 2505.23556).

Of all latents those whose decoder rows have the largest cosine with the refusal direction are kept. They are ranked by
attribution patching with integrated gradients towards the run in which the direction is ablated everywhere: with m the
logit of the token that the ablated run begins its reply with, less that of the token that the plain run begins with,

    effect_i = sum over tokens of (a_i' - a_i) W_dec[i] . mean over t of dm/dx at x + t (x' - x)

where x, a belong to the plain run and x', a' to the ablated one (section 3; Marks et al., arXiv 2403.19647, eq. 4). The
error of the SAE moves along with the latents, so the path is a straight line between the two runs.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saes import SAE
from steer.errors import DataError
from steer.features.search import Found, Search, best
from steer.models.batches import batches_of
from steer.models.model import LanguageModel
from steer.models.passes import Pass, positions_of
from steer.models.site import Site
from steer.models.tokens import Tokens
from steer.steering.directions import ablation
from steer.steering.steered import steered

POOL = 40  # latents kept by cosine; published: 10 of each of many layers
STEPS = 10  # on the line between the two runs, as published
ROWS = 32  # prompts of one backward pass
Gradient = Callable[[Float[Tensor, "batch seq d_model"]], Float[Tensor, "batch seq d_model"]]


def find(search: Search) -> list[Found]:
    """Latents by their effect on the harmful prompts, in nats of the logits' difference: what of refusal they carry.

    Raises:
        DataError: ablating the direction changes how no reply begins; or see ``refusal_direction``.
        SiteError: it is not known what the model's sublayers add to the stream, so nothing can be ablated there.
    """
    sae = search.sae.on(search.lm.device)
    direction = search.direction.to(sae.W_dec)
    cosine = sae.W_dec.detach() @ direction / sae.W_dec.detach().norm(dim=-1).clamp_min(1e-12)
    pool = cosine.topk(min(max(POOL, search.limit), len(cosine))).indices
    prompts = search.lm.prompt_ids([one.messages for one in search.harmful])
    with search.progress.stage("cosine_attribution: gradients", len(prompts)):
        effects, n = attributed(
            search.lm, sae, search.site, prompts, search.direction, pool, done=search.progress.advance
        )
    rows = zip(effects.tolist(), pool.tolist(), strict=True)
    told = f"on {n} prompts whose reply begins otherwise without the direction"
    return best(
        [(effect, i, f"effect {effect:+.3f} {told}; cosine {cosine[i].item():.2f}") for effect, i in rows], search.limit
    )


def attributed(
    lm: LanguageModel,
    sae: SAE,
    site: Site,
    prompts: Sequence[Sequence[int]],
    direction: Float[Tensor, " d_model"],
    latents: Int[Tensor, " n"],
    steps: int = STEPS,
    done: Callable[[int], None] | None = None,
) -> tuple[Float[Tensor, " n"], int]:
    """The mean effect of each latent over the prompts whose reply begins otherwise once ablated; how many those are.

    ``done`` is called with a number of prompts whenever so many more are read.

    Raises:
        DataError: there is no such prompt.
        SiteError: see ``ablation``.
    """
    total, count = torch.zeros(len(latents), dtype=torch.float64), 0
    for batch in batches_of([len(row) for row in prompts], ROWS):
        tokens = lm.pad([prompts[i] for i in batch])
        x, plain = _run(lm, tokens, site)
        with steered(lm, *ablation(lm, direction)):
            moved, ablated = _run(lm, tokens, site)
        differ = (plain != ablated).nonzero().flatten()
        if len(differ):
            part = Tokens(tokens.ids[differ], tokens.mask[differ])
            metric = logit_difference(lm, part, site, ablated[differ], plain[differ])
            gradient = integrated(metric, x[differ], moved[differ], steps)
            total += effects_of(sae, x[differ], moved[differ], gradient, part, latents).sum(0).cpu()
            count += len(differ)
        if done:
            done(len(batch))
    if not count:
        raise DataError(
            f"Ablating the refusal direction at {site} changes how none of {len(prompts)} replies begins, so nothing "
            "can be attributed. Give prompts that the model refuses."
        )
    return total / count, count


def logit_difference(
    lm: LanguageModel, tokens: Tokens, site: Site, towards: Int[Tensor, " batch"], away: Int[Tensor, " batch"]
) -> Gradient:
    """From activations at the site to the gradient there of ``logit(towards) - logit(away)`` of the next token."""

    def gradient(x: Float[Tensor, "batch seq d_model"]) -> Float[Tensor, "batch seq d_model"]:
        with lm.lock, torch.enable_grad():
            start = x.detach().requires_grad_()

            def put(_: Tensor, at: Pass) -> Tensor:
                return start

            with lm.edited({site: put}):
                logits = lm.model(
                    input_ids=tokens.ids,
                    attention_mask=tokens.mask,
                    position_ids=positions_of(tokens.mask),
                    use_cache=False,
                    logits_to_keep=1,
                ).logits[:, -1]
            rows = torch.arange(len(logits), device=logits.device)
            difference = (logits[rows, towards] - logits[rows, away]).sum()
            (found,) = torch.autograd.grad(difference, start)
        return found

    return gradient


def integrated(
    gradient: Gradient,
    x: Float[Tensor, "batch seq d_model"],
    moved: Float[Tensor, "batch seq d_model"],
    steps: int = STEPS,
) -> Float[Tensor, "batch seq d_model"]:
    """The mean gradient on the line from ``x`` to ``moved``, at the middles of so many equal pieces."""
    total = torch.zeros_like(x)
    for step in range(steps):
        total += gradient(x + (step + 0.5) / steps * (moved - x))
    return total / steps


def effects_of(
    sae: SAE,
    x: Float[Tensor, "batch seq d_model"],
    moved: Float[Tensor, "batch seq d_model"],
    gradient: Float[Tensor, "batch seq d_model"],
    tokens: Tokens,
    latents: Int[Tensor, " n"],
) -> Float[Tensor, "batch n"]:
    """What each latent contributes: its change times the slope along its decoder row, summed over all tokens but each
    row's first.
    """
    before, after = (_contributed(sae, one, latents) for one in (x, moved))
    slope = gradient.double() @ sae.W_dec[latents].detach().double().T
    counted = tokens.mask.bool() & (positions_of(tokens.mask) > 0)
    return ((after - before) * slope * counted.unsqueeze(-1)).sum(1)


def _contributed(
    sae: SAE, x: Float[Tensor, "batch seq d_model"], latents: Int[Tensor, " n"]
) -> Float[Tensor, "batch seq n"]:
    """How often each latent's decoder row is in the reconstruction: its activation, times the SAE's own scale."""
    exact = x.to(sae.W_dec.dtype)
    scale = sae.output_scale(exact)
    found = torch.stack([sae.encode(row).to_dense()[:, latents] for row in exact]).detach().double()
    return found if scale is None else found * scale


def _run(
    lm: LanguageModel, tokens: Tokens, site: Site
) -> tuple[Float[Tensor, "batch seq d_model"], Int[Tensor, " batch"]]:
    """Activations at the site, and the likeliest next token."""
    return lm.activations(tokens, [site])[site], lm.forward(tokens, keep=1)[:, -1].argmax(-1)
