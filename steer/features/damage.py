"""What clamping a latent breaks on neutral text: how far the model's predictions move, and how much worse they are."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steer.features.kept import of_tokens
from steer.features.states import CUT_TOKENS
from steer.features.trial import Arm, Trial
from steer.forks import forked
from steer.models.batches import batches_of
from steer.models.tokens import Tokens
from steer.steering.each_row import clamp_each_row
from steer.steering.steered import steered

ROWS = 8  # texts of one forward pass
TOGETHER = (
    16  # arms that are done before others begin: the unsteered pass beside them counts little, a kill loses little
)
LOGITS = 2**25  # numbers held at once: 128 MiB in float32


@dataclass(frozen=True)
class Damage:
    """Means over the tokens of neutral texts but each one's first."""

    kl: float
    """KL(unsteered || steered) of the next token, in nats per token."""
    loss: float
    """Negative log-likelihood of the text, steered less unsteered, in nats per token."""


def damage(
    trial: Trial, texts: Sequence[Sequence[int]], arms: Sequence[Arm], done: Callable[[int], None] | None = None
) -> list[Damage]:
    """The damage that each arm does. Texts are cut at ``CUT_TOKENS``; many arms share a forward pass.

    ``done`` is called with the number of texts read under clamps (arms times texts in all) whenever some are.
    """
    cut = [list(text[:CUT_TOKENS]) for text in texts]
    of, known = of_tokens(cut), trial.kept.damage if trial.kept else {}
    found = {arm: Damage(*known[_key(arm), of]) for arm in arms if (_key(arm), of) in known}
    missing = [arm for arm in arms if arm not in found]
    tell = done or (lambda count: None)
    tell(len(found) * len(cut))
    batches = batches_of([len(text) for text in cut], ROWS)
    shares = [missing[start : start + TOGETHER] for start in range(0, len(missing), TOGETHER)]
    items = [(some, batch) for some in shares for batch in batches]

    def summed(item: tuple[Sequence[Arm], Sequence[int]]) -> tuple[list[list[float]], int]:
        sums, count = _batch(trial, [cut[i] for i in item[1]], item[0])
        return sums.tolist(), count

    part: list[tuple[list[list[float]], int]] = []
    for (some, batch), one in zip(items, forked(summed, items, trial.processes), strict=True):
        tell(len(some) * len(batch))
        part.append(one)
        if len(part) < len(batches):
            continue
        sums = torch.tensor([sums for sums, _ in part], dtype=torch.float64).sum(0)
        means = (sums / sum(count for _, count in part)).tolist()
        if trial.kept:
            trial.kept.add_damage([(_key(arm), of) for arm in some], [(kl, loss) for kl, loss in means])
        found.update((arm, Damage(*row)) for arm, row in zip(some, means, strict=True))
        part = []
    return [found[arm] for arm in arms]


def _key(arm: Arm) -> tuple[int, float]:
    return arm.latent, arm.strength


def _batch(trial: Trial, texts: Sequence[Sequence[int]], arms: Sequence[Arm]) -> tuple[Float[Tensor, "arm 2"], int]:
    """Sums over the tokens of a few texts, and how many those are."""
    tokens = trial.lm.pad(texts)
    plain = trial.lm.forward(tokens)[:, :-1].float().log_softmax(-1)
    real = tokens.mask[:, 1:].bool() & tokens.mask[:, :-1].bool()
    sums = [
        _sums(plain, _steered(trial, tokens, some), tokens.ids[:, 1:], real).cpu()
        for some in _parts(arms, plain.numel())
    ]
    return torch.cat(sums), int(real.sum())


def _parts(arms: Sequence[Arm], each: int) -> Iterator[Sequence[Arm]]:
    """Arms that are run together: as many as logits leave room for."""
    size = max(1, LOGITS // each)
    for start in range(0, len(arms), size):
        yield arms[start : start + size]


def _steered(trial: Trial, tokens: Tokens, arms: Sequence[Arm]) -> Float[Tensor, "text arm seq vocab"]:
    """Logits of the next token under each arm."""
    texts, n = len(tokens.ids), len(arms)
    latents, values = [one.latent for one in arms] * texts, [one.strength for one in arms] * texts
    with steered(trial.lm, clamp_each_row(trial.sae, latents, values, trial.site)):
        logits = trial.lm.forward(tokens, copies=n)
    return logits[:, :-1].float().unflatten(0, (texts, n))


def _sums(
    plain: Float[Tensor, "text seq vocab"],
    moved: Float[Tensor, "text arm seq vocab"],
    targets: Int[Tensor, "text seq"],
    real: Bool[Tensor, "text seq"],
) -> Float[Tensor, "arm 2"]:
    """Divergence and difference in loss of each arm, summed over the tokens.

    With z the steered logits: ``KL = sum p log p - p.z + logsumexp(z)``, which looks at each logit twice only.
    """
    p, total = plain.exp(), moved.logsumexp(-1)
    entropy = -(p * plain).sum(-1)
    kl = total - torch.einsum("tsv,tasv->tas", p, moved) - entropy.unsqueeze(1)
    at = targets[:, None, :, None].expand(-1, moved.shape[1], -1, -1)
    own = plain.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    loss = own.unsqueeze(1) - moved.gather(-1, at).squeeze(-1) + total
    both = torch.stack([kl, loss], dim=-1).double() * real[:, None, :, None]
    return both.sum((0, 2))
