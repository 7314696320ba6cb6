"""What is done to activations: clamp SAE latents, add a direction.

Every intervention at a site computes a change from the same activations; the changes are summed and added once, in
float32, and cast back once. Because a change is added and the reconstruction never replaces the activations, the
SAE's error term stays exactly as it was, and a change of zero gives back the activations bit for bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saes import SAE
from steer.errors import PlanError
from steer.models.hooks import Edit
from steer.models.passes import Pass
from steer.models.site import Site


@runtime_checkable
class Intervention(Protocol):
    """Something that changes the activations of one site."""

    @property
    def site(self) -> Site:
        """Where it acts."""
        ...

    def check(self, d_model: int) -> None:
        """Raise PlanError if it does not fit a residual stream of width ``d_model``."""
        ...

    def to(self, device: torch.device) -> "Intervention":
        """The same with its tensors on ``device``."""
        ...

    def change(self, x: Float[Tensor, "batch seq d_model"], at: Pass) -> Float[Tensor, "batch seq d_model"]:
        """What to add to ``x`` (float32)."""
        ...


@dataclass(frozen=True, eq=False)
class Clamp:
    """Set SAE latents to given activations, whether they are active or not.

    ``x' = x + sum_i (value_i - a_i) W_dec[i]`` with ``a = encode(x)`` (arXiv 2411.11296; the operation called ``set``).
    Clamping a latent that is not among the k strongest makes k + 1 active ones. ``latents`` is ``{latent: value}`` in
    raw activation units; a value may be a tensor with one entry per row of the batch.
    """

    sae: SAE
    latents: Mapping[int, float | Tensor]
    where: Site | None = None
    """Where to act; None: the site that the SAE was trained on."""
    _index: Int[Tensor, " n"] = field(init=False)
    _values: Float[Tensor, "rows n"] = field(init=False)

    def __post_init__(self) -> None:
        if not self.latents:
            raise PlanError("Clamp needs at least one latent: got none. Give {latent: value}.")
        device = self.sae.W_dec.device
        columns = [torch.as_tensor(value, dtype=torch.float32).reshape(-1) for value in self.latents.values()]
        lengths = {len(column) for column in columns} - {1}
        if len(lengths) > 1:
            raise PlanError(f"Values per row must be equally many for all latents, got {sorted(lengths)}.")
        object.__setattr__(self, "_index", torch.tensor(list(self.latents), device=device))
        values = torch.stack(torch.broadcast_tensors(*columns), dim=-1)
        _check_finite("A clamp value", values)
        object.__setattr__(self, "_values", values.to(device))
        _check_latents(self.latents, self.sae.config.d_sae)
        self.site  # noqa: B018  # raises now if neither side names a site

    @property
    def site(self) -> Site:
        """Where it acts."""
        return _site_of(self.sae, self.where)

    def check(self, d_model: int) -> None:
        """Raise PlanError if the SAE does not read activations of width ``d_model``."""
        _check_width(self.sae, d_model)

    def to(self, device: torch.device) -> "Clamp":
        """The same with its tensors on ``device``; the SAE is copied there if it is elsewhere."""
        return Clamp(self.sae.on(device), self.latents, self.where)

    def change(self, x: Float[Tensor, "batch seq d_model"], at: Pass) -> Float[Tensor, "batch seq d_model"]:
        """``sum_i (value_i - a_i) W_dec[i]``."""
        now = self.sae.activations_of(x, self._index)
        _check_rows(len(self._values), at)
        target = self._values[at.rows] if len(self._values) > 1 else self._values
        return (target.unsqueeze(1) - now) @ self.sae.W_dec[self._index]


@dataclass(frozen=True, eq=False)
class ClampEachRow:
    """Set another SAE latent in each row of a batch: many candidates measured in one pass."""

    sae: SAE
    latents: Int[Tensor, " rows"]
    value: float
    """Activation to set, in raw units."""
    where: Site | None = None
    """Where to act; None: the site that the SAE was trained on."""

    def __post_init__(self) -> None:
        _check_latents(self.latents.tolist(), self.sae.config.d_sae)
        _check_finite("A clamp value", torch.tensor(self.value))

    @property
    def site(self) -> Site:
        """Where it acts."""
        return _site_of(self.sae, self.where)

    def check(self, d_model: int) -> None:
        """Raise PlanError if the SAE does not read activations of width ``d_model``."""
        _check_width(self.sae, d_model)

    def to(self, device: torch.device) -> "ClampEachRow":
        """The same with its tensors on ``device``; the SAE is copied there if it is elsewhere."""
        return ClampEachRow(self.sae.on(device), self.latents.to(device), self.value, self.where)

    def change(self, x: Float[Tensor, "batch seq d_model"], at: Pass) -> Float[Tensor, "batch seq d_model"]:
        """``(value - a_i) W_dec[i]`` with i the latent of the row."""
        if len(self.latents) == 1 < at.n_rows:
            raise PlanError(f"One latent is needed for each row: got 1 for {at.n_rows} rows. Use Clamp instead.")
        _check_rows(len(self.latents), at)
        latent = self.latents[at.rows]
        now = self.sae.activations_of(x, latent.unsqueeze(-1))
        return (self.value - now) * self.sae.W_dec[latent].unsqueeze(1)


@dataclass(frozen=True, eq=False)
class AddDirection:
    """Add a direction of a given length to the residual stream: ``x' = x + strength * v / |v|``."""

    where: Site
    direction: Float[Tensor, " d_model"]
    strength: float
    """Length of what is added, in units of the residual stream."""

    def __post_init__(self) -> None:
        _check_finite("A direction", self.direction)
        _check_finite("A strength", torch.tensor(self.strength))
        if not self.direction.any():
            raise PlanError("A direction must not be zero.")

    @property
    def site(self) -> Site:
        """Where it acts."""
        return self.where

    def check(self, d_model: int) -> None:
        """Raise PlanError if the direction has another width than the residual stream."""
        if len(self.direction) != d_model:
            raise PlanError(f"The direction has {len(self.direction)} dimensions, the model {d_model}.")

    def to(self, device: torch.device) -> "AddDirection":
        """The same with its tensors on ``device``."""
        return AddDirection(self.where, self.direction.to(device), self.strength)

    def change(self, x: Float[Tensor, "batch seq d_model"], at: Pass) -> Float[Tensor, "batch seq d_model"]:
        """The same vector at every token."""
        unit = self.direction.float() / self.direction.float().norm()
        return (self.strength * unit).expand_as(x)


def acts_on(at: Pass) -> Bool[Tensor, "batch seq"]:
    """Tokens that interventions act on: prompt and generated ones, but not padding and not the first token.

    The first token (usually a beginning-of-sequence marker) carries activations unlike all others, which SAEs are not
    trained on, so it is left alone.
    """
    return at.real & (at.positions > 0)


def combine(interventions: Sequence[Intervention]) -> Edit:
    """One edit for all interventions of a site; the order does not matter, since all read the same activations."""

    def edit(x: Float[Tensor, "batch seq d_model"], at: Pass) -> Float[Tensor, "batch seq d_model"]:
        exact = x.float()
        change = torch.stack([intervention.change(exact, at) for intervention in interventions]).sum(0)
        return (exact + change * acts_on(at).unsqueeze(-1)).to(x.dtype)

    return edit


def _check_rows(values: int, at: Pass) -> None:
    if values not in (1, at.n_rows):
        raise PlanError(f"An intervention has values for {values} rows, but {at.n_rows} rows are run.")


def _site_of(sae: SAE, given: Site | None) -> Site:
    if given is not None:
        return given
    if sae.config.site is None:
        raise PlanError("The SAE does not say which site it was trained on. Name it, for example Site(1).")
    return Site.parse(sae.config.site)


def _check_width(sae: SAE, d_model: int) -> None:
    if sae.config.d_in != d_model:
        raise PlanError(
            f"The SAE reads activations of width {sae.config.d_in} (d_in), but the model's residual stream is "
            f"{d_model} wide. It was trained on {sae.config.model or 'another model'}; use that model."
        )


def _check_latents(latents: Sequence[int] | Mapping[int, object], d_sae: int) -> None:
    for latent in latents:
        if not 0 <= latent < d_sae:
            raise PlanError(
                f"Latent {latent} is out of range: the SAE has d_sae = {d_sae} latents, "
                f"so the valid range is 0 to {d_sae - 1}."
            )


def _check_finite(what: str, value: Tensor) -> None:
    if not torch.isfinite(value).all():
        raise PlanError(f"{what} must be finite, got {value.tolist()}.")
