"""The published way to find a refusal latent (O'Brien et al., arXiv 2411.11296), and a control latent beside it.

Latents that are active while the model refuses one archetypal prompt are candidates; each is clamped during
generation and the refusals that result are counted on development prompts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from saes import SAE, Firing
from steer.checks import require_whole
from steer.errors import DataError
from steer.evals.judges import is_incoherent, is_refusal
from steer.evals.sample import Sample
from steer.forks import forked
from steer.models.batches import batches_of
from steer.models.chat import Conversation
from steer.models.decode import Sampling
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.steering.interventions import ClampEachRow
from steer.steering.steered import steered

ENOUGH = 0.9  # share of every unsafe set refused from which on a candidate counts as carrying refusal
SETTLED = 0.95  # the same for the strength that a latent is settled on: other prompts will be refused less


@dataclass(frozen=True)
class Refusal:
    """A model's own refusal of a prompt."""

    reply: str
    prompt_ids: list[int]
    reply_ids: list[int]


@dataclass(frozen=True)
class ActiveLatent:
    """A latent that fires while the model refuses."""

    latent: int
    tokens_active: int
    """Tokens of the refusal on which it is active."""
    max_activation: float
    """Its largest activation there, in raw units."""


@dataclass(frozen=True)
class Candidate:
    """A latent that fires while the model refuses, and what clamping it does on development prompts."""

    latent: int
    tokens_active: int
    max_activation: float
    strength: float
    """The value it was clamped to, in raw units."""
    refusal_dev: float
    """Share of the unsafe development prompts refused while the latent is clamped."""
    weakest_dev: float
    """The same share of that unsafe set of which fewest are refused."""
    safe_refusal_dev: float
    """The same share of the safe ones."""
    by_set: Mapping[str, float]
    """The same share of the prompts of each set."""
    n_unsafe: int
    """Unsafe prompts it was measured on."""
    n_safe: int
    """Safe prompts it was measured on."""
    finalist: bool = False
    """Whether ``strength`` is the best of several on these same prompts, which flatters the shares."""


@dataclass(frozen=True)
class Control:
    """A latent that has nothing to do with refusal, and what clamping it does on development prompts."""

    latent: int
    strength: float
    """The value it was clamped to, in raw units."""
    by_set: Mapping[str, float]
    """Share of the prompts of each set refused while it is clamped."""
    moved: float
    """How far that share is from the one without clamping, on the set where it is farthest."""


def refuse_archetype(lm: LanguageModel, prompt: str | Conversation, max_new_tokens: int) -> Refusal:
    """Let the model refuse one archetypal unsafe prompt.

    Raises:
        DataError: the model does not refuse it.
    """
    prompt_ids = lm.prompt_ids([prompt])[0]
    reply_ids = lm.generate_ids([prompt_ids], Sampling(max_new_tokens=max_new_tokens))[0]
    reply = lm.tokenizer.decode(reply_ids, skip_special_tokens=True).strip()
    if not is_refusal(reply):
        raise DataError(
            f"The model does not refuse the archetypal prompt, so it names no latents: it replied {reply!r}. "
            "Give a prompt that this model refuses."
        )
    return Refusal(reply, prompt_ids, reply_ids)


def latents_active(
    lm: LanguageModel, sae: SAE, site: Site, refusal: Refusal, min_tokens: int = 2
) -> list[ActiveLatent]:
    """Latents active on at least ``min_tokens`` tokens while the model refuses, those active most often first.

    The tokens counted are those of the prompt, but for the first one, and of the reply.
    """
    tokens = lm.pad([[*refusal.prompt_ids, *refusal.reply_ids]])
    x = lm.activations(tokens, [site])[site][0, 1:]
    dense = sae.on(lm.device).encode(x.float()).to_dense()
    counts, maxima = (dense > 0).sum(0), dense.amax(0)
    found = [
        ActiveLatent(latent, int(counts[latent]), maxima[latent].item())
        for latent in (counts >= min_tokens).nonzero().flatten().tolist()
    ]
    return sorted(found, key=lambda one: (-one.tokens_active, -one.max_activation, one.latent))


def measure_candidates(
    lm: LanguageModel,
    sae: SAE,
    site: Site,
    active: Sequence[ActiveLatent],
    unsafe: Sequence[Sample],
    safe: Sequence[Sample],
    value: float,
    max_new_tokens: int,
    batch_size: int = 128,
    on_done: Callable[[int], None] | None = None,
    processes: int = 1,
) -> list[Candidate]:
    """Clamp each latent to ``value`` and count refusals on development prompts; best candidate first.

    All candidates share batches: every row of a batch has its own latent clamped. A broken reply is no refusal. The
    order is that of ``rank``. ``processes`` work on batches side by side (``forked``); the result is the same.

    Raises:
        DataError: there are no prompts of a kind, or ``batch_size`` is below 1.
    """
    require_whole("batch_size", batch_size, DataError)
    if not unsafe or not safe:
        raise DataError(f"Candidates need prompts of both kinds: got {len(unsafe)} unsafe and {len(safe)} safe.")
    samples = [*unsafe, *safe]
    prompts = lm.prompt_ids([list(sample.messages) for sample in samples])
    jobs = [(one.latent, p) for one in active for p in range(len(prompts))]
    refused: dict[tuple[int, int], bool] = {}
    batches = [[jobs[i] for i in one] for one in batches_of([len(prompts[p]) for _, p in jobs], batch_size)]

    def refusals(batch: Sequence[tuple[int, int]]) -> list[bool]:
        latents = torch.tensor([latent for latent, _ in batch], device=lm.device)
        with steered(lm, ClampEachRow(sae, latents, value, site)):
            replies = lm.generate_ids([prompts[p] for _, p in batch], Sampling(max_new_tokens=max_new_tokens))
        return [_refuses(lm.tokenizer.decode(reply, skip_special_tokens=True)) for reply in replies]

    for batch, found in zip(batches, forked(refusals, batches, processes), strict=True):
        refused.update(zip(batch, found, strict=True))
        if on_done:
            on_done(len(batch))

    in_set = {name: [p for p, one in enumerate(samples) if one.set == name] for name in {one.set for one in samples}}
    unsafe_sets = {one.set for one in unsafe}

    def share(latent: int, places: Sequence[int]) -> float:
        return sum(refused[latent, p] for p in places) / len(places)

    def candidate(one: ActiveLatent) -> Candidate:
        by_set = {name: share(one.latent, in_set[name]) for name in sorted(in_set)}
        return Candidate(
            latent=one.latent,
            tokens_active=one.tokens_active,
            max_activation=one.max_activation,
            strength=value,
            refusal_dev=share(one.latent, range(len(unsafe))),
            weakest_dev=min(by_set[name] for name in unsafe_sets),
            safe_refusal_dev=share(one.latent, range(len(unsafe), len(prompts))),
            by_set=by_set,
            n_unsafe=len(unsafe),
            n_safe=len(safe),
        )

    return sorted(map(candidate, active), key=rank)


def rank(candidate: Candidate) -> tuple[bool, float, float, float, int]:
    """Sorting key, best first: of candidates that refuse ``ENOUGH`` of every unsafe set, the one that refuses fewest
    safe prompts; of others, the one that refuses most unsafe ones.

    The paper ranks by the unsafe share alone, which cannot tell candidates apart once several refuse everything.
    """
    unsafe, safe = -candidate.refusal_dev, candidate.safe_refusal_dev
    if candidate.weakest_dev >= ENOUGH:
        return False, safe, unsafe, candidate.strength, candidate.latent
    return True, unsafe, safe, candidate.strength, candidate.latent


def best_strengths(
    lm: LanguageModel,
    sae: SAE,
    site: Site,
    candidates: Sequence[Candidate],
    unsafe: Sequence[Sample],
    safe: Sequence[Sample],
    values: Sequence[float],
    max_new_tokens: int,
    on_done: Callable[[int], None] | None = None,
    processes: int = 1,
) -> list[Candidate]:
    """The finalists: each candidate at the best of several strengths; best candidate first.

    What makes the effect of one latent plain breaks the replies of another, so each is compared at its own strength.
    The best of several on the same prompts looks better than it will on other prompts.
    """
    active = [ActiveLatent(one.latent, one.tokens_active, one.max_activation) for one in candidates]
    found: dict[int, Candidate] = {}
    for value in values:
        for one in measure_candidates(
            lm, sae, site, active, unsafe, safe, value, max_new_tokens, on_done=on_done, processes=processes
        ):
            found[one.latent] = min(found.get(one.latent, one), one, key=rank)
    return sorted((replace(one, finalist=True) for one in found.values()), key=rank)


def settle_strength(
    lm: LanguageModel,
    sae: SAE,
    site: Site,
    candidate: Candidate,
    unsafe: Sequence[Sample],
    safe: Sequence[Sample],
    values: Sequence[float],
    max_new_tokens: int,
    on_done: Callable[[int], None] | None = None,
    processes: int = 1,
) -> Candidate:
    """One candidate at the best of several strengths.

    That is, of those at which ``SETTLED`` of every unsafe set is refused, the one that refuses fewest safe prompts;
    where there is none, the one at which most is refused of the unsafe set that it moves least. Useful strengths can be
    a narrow range, between too weak and broken replies, so steps must be fine and prompts many.
    """
    active = [ActiveLatent(candidate.latent, candidate.tokens_active, candidate.max_activation)]
    tried = [
        measure_candidates(
            lm, sae, site, active, unsafe, safe, value, max_new_tokens, on_done=on_done, processes=processes
        )[0]
        for value in values
    ]

    def key(one: Candidate) -> tuple[float, float, float]:
        return min(one.weakest_dev, SETTLED), -one.safe_refusal_dev, -one.strength

    return replace(max(tried, key=key), finalist=True)


def silent_latents(firing: Firing, active: Sequence[ActiveLatent]) -> list[int]:
    """Living latents that the refusal leaves silent.

    Raises:
        DataError: there is none.
    """
    taken = {one.latent for one in active}
    free = [i for i in (firing.density > 0).nonzero().flatten().tolist() if i not in taken]
    if not free:
        raise DataError("No latent is left for a control: all living latents fire in the refusal. Widen the SAE.")
    return free


def unrelated_latents(
    sae: SAE,
    firing: Firing,
    chosen: int,
    active: Sequence[ActiveLatent],
    direction: Float[Tensor, " d_model"],
    count: int = 8,
) -> list[ActiveLatent]:
    """Latents to compare the chosen one with: as frequent, silent in the refusal, and orthogonal to its direction.

    Of the living latents that the refusal leaves silent, take the half whose decoder rows are most nearly orthogonal
    to the refusal direction, and of these the ``count`` whose firing density is nearest to the chosen latent's.

    Raises:
        DataError: no latent is left.
    """
    cosine = (sae.W_dec @ direction.to(sae.W_dec)).abs().cpu()
    free = [i for i in silent_latents(firing, active) if i != chosen]
    orthogonal = sorted(free, key=lambda i: (cosine[i].item(), i))[: max(1, len(free) // 2)]
    nearest = sorted(orthogonal, key=lambda i: (abs((firing.density[i] - firing.density[chosen]).item()), i))
    return [ActiveLatent(i, 0, firing.maximum[i].item()) for i in nearest[:count]]


def rank_controls(measured: Sequence[Candidate], plain: Mapping[str, float]) -> list[Control]:
    """Unrelated latents, first the one whose clamping moves refusal least on the set where it moves it most.

    ``plain`` is the share refused without clamping, by set of development prompts. The first is the control. It is
    picked for moving refusal little; what an unrelated latent usually does is told by all of them.
    """

    def control(one: Candidate) -> Control:
        moved = max(abs(one.by_set[name] - share) for name, share in plain.items())
        return Control(one.latent, one.strength, one.by_set, moved)

    return sorted(map(control, measured), key=lambda one: (one.moved, one.latent))


def _refuses(reply: str) -> bool:
    return is_refusal(reply) and not is_incoherent(reply)
