"""Gates: an intervention acts only where a score of the activations says so, decided row by row.

A score is computed for every token at the gate's own site. Over the prompt it is pooled to one number for each row,
compared with a threshold when the prompt has been read, and the decision holds for the reply (latched); or it is
compared at every token. ``fit_threshold`` sets the threshold to a false-positive rate on benign prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saes import SAE
from steer.checks import require_finite
from steer.errors import PlanError
from steer.models.passes import Pass, after_first
from steer.models.site import Site
from steer.steering.direction_edits import FLOAT32, unit_of
from steer.steering.intervention import Intervention
from steer.steering.latents import check_latents, check_sae, check_width, site_of
from steer.steering.window import Window

Pool = Literal["last", "mean", "max", "share", "mean_state"]
Decided = Literal["prompt", "token"]


@runtime_checkable
class Score(Protocol):
    """A number for every token, from the activations at one site."""

    @property
    def site(self) -> Site:
        """Where it reads."""
        ...

    def check(self, d_model: int) -> None:
        """Raise PlanError if it does not fit a residual stream of width ``d_model``."""
        ...

    def to(self, device: torch.device) -> "Score":
        """The same with its tensors on ``device``."""
        ...

    def score(self, x: Float[Tensor, "batch seq d_model"]) -> Float[Tensor, "batch seq"]:
        """The score of each token (float32)."""
        ...


@dataclass(frozen=True, eq=False)
class LatentScore:
    """The largest activation among chosen latents, each divided by a scale of its own (raw units where none is given).

    With the pool ``share`` and threshold 0 on tokens this is the rule of Dynamic SAE Guardrails (arXiv 2504.08192): the
    share of tokens on which any of the latents fires.
    """

    sae: SAE
    latents: Sequence[int]
    where: Site | str | None = None
    """Where to read, a site or its name; None: the site that the SAE was trained on."""
    _index: Int[Tensor, " n"] = field(init=False)

    def __post_init__(self) -> None:
        check_sae(self.sae)
        index = check_latents(self.latents, self.sae.config.d_sae)
        if not index:
            raise PlanError("A gate on latents needs at least one latent.")
        object.__setattr__(self, "latents", tuple(index))
        object.__setattr__(self, "_index", torch.tensor(index, device=self.sae.W_dec.device))
        self.site  # noqa: B018  # raises now if neither side names a site

    @property
    def site(self) -> Site:
        """Where it reads."""
        return site_of(self.sae, self.where)

    def check(self, d_model: int) -> None:
        """Raise PlanError if the SAE does not read activations of width ``d_model``."""
        check_width(self.sae, d_model)

    def to(self, device: torch.device) -> "LatentScore":
        """The same with its tensors on ``device``."""
        return replace(self, sae=self.sae.on(device))

    def score(self, x: Float[Tensor, "batch seq d_model"]) -> Float[Tensor, "batch seq"]:
        """``max_i a_i``."""
        return self.sae.activations_of(x, self._index).amax(-1)


@dataclass(frozen=True, eq=False)
class ProbeScore:
    """A linear probe: ``w . z + b`` with z the activations, or the latents that an SAE gives for them."""

    where: Site | str
    weights: Float[Tensor, " width"]
    bias: float = 0.0
    sae: SAE | None = None
    """Whose latents the probe reads; None: it reads the residual stream."""
    latents: Sequence[int] = ()
    """Which of them, in the order of the weights; (): all."""

    def __post_init__(self) -> None:
        if not isinstance(self.weights, Tensor) or self.weights.ndim != 1 or not self.weights.isfinite().all():
            raise PlanError("The weights of a probe must be a finite tensor of shape [width].")
        require_finite("bias", self.bias, PlanError, FLOAT32)
        if self.latents and self.sae is None:
            raise PlanError("A probe that reads latents needs their SAE.")
        if self.sae is not None:
            check_sae(self.sae)
            object.__setattr__(self, "latents", tuple(check_latents(self.latents, self.sae.config.d_sae)))
            expected = len(self.latents) or self.sae.config.d_sae
            if len(self.weights) != expected:
                raise PlanError(f"The probe has {len(self.weights)} weights for {expected} latents.")
        object.__setattr__(self, "weights", self.weights.detach().float().clone())
        self.site  # noqa: B018  # raises now if the name is no site

    @property
    def site(self) -> Site:
        """Where it reads."""
        return Site.parse(self.where)

    def check(self, d_model: int) -> None:
        """Raise PlanError if the probe, or its SAE, is of another width."""
        if self.sae is not None:
            check_width(self.sae, d_model)
        elif len(self.weights) != d_model:
            raise PlanError(f"The probe has {len(self.weights)} weights, the model a width of {d_model}.")

    def to(self, device: torch.device) -> "ProbeScore":
        """The same with its tensors on ``device``."""
        sae = None if self.sae is None else self.sae.on(device)
        return replace(self, weights=self.weights.to(device), sae=sae)

    def score(self, x: Float[Tensor, "batch seq d_model"]) -> Float[Tensor, "batch seq"]:
        """The probe's logit."""
        if self.sae is None:
            return x @ self.weights + self.bias
        if self.latents:
            index = torch.tensor(self.latents, device=x.device)
            return self.sae.activations_of(x, index) @ self.weights + self.bias
        codes = self.sae.encode(x)
        return (codes.values * self.weights[codes.indices]).sum(-1) + self.bias


@dataclass(frozen=True, eq=False)
class ConditionScore:
    """How near activations are to a condition direction: ``cos(x, tanh(P x))`` with P the projection on it.

    Conditional activation steering (CAST, arXiv 2409.05907, eq. 4), at each token.
    """

    where: Site | str
    direction: Float[Tensor, " d_model"]
    _unit: Float[Tensor, " d_model"] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_unit", unit_of(self.direction))
        self.site  # noqa: B018  # raises now if the name is no site

    @property
    def site(self) -> Site:
        """Where it reads."""
        return Site.parse(self.where)

    def check(self, d_model: int) -> None:
        """Raise PlanError if the direction has another width than the residual stream."""
        if len(self.direction) != d_model:
            raise PlanError(f"The direction has {len(self.direction)} dimensions, the model {d_model}.")

    def to(self, device: torch.device) -> "ConditionScore":
        """The same with its tensors on ``device``."""
        return replace(self, direction=self.direction.to(device))

    def score(self, x: Float[Tensor, "batch seq d_model"]) -> Float[Tensor, "batch seq"]:
        """The similarity of each token, from -1 to 1."""
        projected = torch.tanh((x @ self._unit).unsqueeze(-1) * self._unit)
        return torch.nn.functional.cosine_similarity(x, projected, dim=-1)


@dataclass(frozen=True, eq=False)
class Gate:
    """When a score opens the way for an intervention."""

    score: Score
    threshold: float
    """The gate is open above it. For the pool ``share`` a share of the prompt's tokens."""
    pool: Pool = "max"
    """How the prompt's scores become one: of the ``last`` token, their ``mean`` or ``max``, or the ``share`` of tokens
    whose score is above ``token_threshold``; or ``mean_state``, the score of the mean of the activations. Padding and
    the first token do not count."""
    decided: Decided = "prompt"
    """When the prompt has been read, for the whole reply; or at every ``token`` for itself."""
    token_threshold: float = 0.0
    """For the pool ``share``."""
    below: bool = False
    """Whether it is open below the threshold instead."""

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("pool", self.pool, get_args(Pool)),
            ("decided", self.decided, get_args(Decided)),
        ):
            if value not in choices:
                raise PlanError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")
        require_finite("threshold", self.threshold, PlanError, FLOAT32)
        require_finite("token_threshold", self.token_threshold, PlanError, FLOAT32)

    def of_prompt(
        self, x: Float[Tensor, "batch seq d_model"], counts: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, " batch"]:
        """One number for each row, from the activations of the tokens that count; 0 for a row that has none."""
        if self.pool != "mean_state":
            return self.pooled(self.score.score(x), counts)
        number = counts.sum(-1, keepdim=True)
        mean = (x * counts.unsqueeze(-1)).sum(1) / number.clamp_min(1)
        return torch.where(number > 0, self.score.score(mean.unsqueeze(1)), 0.0).squeeze(-1)

    def pooled(self, scores: Float[Tensor, "batch seq"], counts: Bool[Tensor, "batch seq"]) -> Float[Tensor, " batch"]:
        """One number for each row, from the tokens that count; 0 for a row that has none."""
        if self.pool == "last":
            places = torch.arange(scores.shape[1], device=scores.device)
            last = torch.where(counts, places, -1).amax(-1)
            return torch.where(last >= 0, scores.gather(-1, last.clamp_min(0).unsqueeze(-1)).squeeze(-1), 0.0)
        number = counts.sum(-1)
        if self.pool == "max":
            return torch.where(number > 0, scores.masked_fill(~counts, -torch.inf).amax(-1), 0.0)
        values = (scores > self.token_threshold).float() if self.pool == "share" else scores
        return (values * counts).sum(-1) / number.clamp_min(1)

    def opens(self, value: Float[Tensor, "..."]) -> Bool[Tensor, "..."]:
        """Whether it is open."""
        return value < self.threshold if self.below else value > self.threshold


@dataclass(frozen=True, eq=False)
class Gated:
    """An intervention that acts only where a gate is open."""

    intervention: Intervention
    gate: Gate

    def __post_init__(self) -> None:
        if self.gate.score.site.order > self.site.order and self.window.phase != "generated":
            raise PlanError(
                f"The gate reads at {self.gate.score.site}, after {self.site} where it should act: at the prompt's "
                "tokens it is too late. Read at an earlier site, or act on generated tokens alone."
            )
        if self.gate.score.site.order > self.site.order and self.gate.decided == "token":
            raise PlanError(
                f"The gate reads at {self.gate.score.site}, after {self.site} where it should act, so it cannot decide "
                "at each token. Read at an earlier site, or decide when the prompt has been read."
            )

    @property
    def site(self) -> Site:
        """Where it acts."""
        return self.intervention.site

    @property
    def window(self) -> Window:
        """On which tokens, if the gate is open."""
        return self.intervention.window

    def check(self, d_model: int) -> None:
        """Raise PlanError if intervention or gate do not fit a residual stream of width ``d_model``."""
        self.intervention.check(d_model)
        self.gate.score.check(d_model)

    def to(self, device: torch.device) -> "Gated":
        """The same with its tensors on ``device``."""
        return Gated(self.intervention.to(device), replace(self.gate, score=self.gate.score.to(device)))

    def listen(self, x: Float[Tensor, "batch seq d_model"], at: Pass) -> None:
        """Decide from the activations at the gate's site; called before anything is changed there."""
        if self.gate.decided == "token":
            at.memory[self, "tokens"] = (at.rows, self.gate.opens(self.gate.score.score(x)))
            return
        counts = after_first(at.real, at.positions) & ~at.generated
        rows = counts.any(-1)
        decisions = at.memory.setdefault((self, "rows"), torch.zeros(at.n_rows, dtype=torch.bool, device=x.device))
        decisions[at.rows[rows]] = self.gate.opens(self.gate.of_prompt(x, counts))[rows]

    def change(self, x: Float[Tensor, "batch seq d_model"], at: Pass) -> Float[Tensor, "batch seq d_model"]:
        """The intervention's change where the gate is open, zero elsewhere."""
        if self.gate.decided == "token":
            rows, opened = at.memory[self, "tokens"]
            places = (at.rows.unsqueeze(-1) == rows).int().argmax(-1)  # a part of the rows that were listened to
            return self.intervention.change(x, at) * opened[places].unsqueeze(-1)
        decisions = at.memory.get((self, "rows"))
        opened = torch.zeros_like(at.rows, dtype=torch.bool) if decisions is None else decisions[at.rows]
        if not opened.any():
            return torch.zeros_like(x)
        return self.intervention.change(x, at) * opened[:, None, None]


def fit_threshold(benign: Float[Tensor, " prompts"], false_positive_rate: float) -> float:
    """The least threshold above which at most this share of benign prompts has its score.

    Raises:
        PlanError: there are no scores, one is not finite, or the rate is not between 0 and 1.
    """
    require_finite("false_positive_rate", false_positive_rate, PlanError, 1.0)
    if false_positive_rate < 0:
        raise PlanError(f"false_positive_rate must be between 0 and 1, got {false_positive_rate}.")
    if not len(benign) or not benign.isfinite().all():
        raise PlanError(f"A threshold needs finite scores of benign prompts, got {len(benign)} scores.")
    ordered = benign.sort(descending=True).values
    allowed = int(false_positive_rate * len(ordered) + 1e-9)
    return ordered[allowed].item() if allowed < len(ordered) else ordered[-1].item() - 1.0
