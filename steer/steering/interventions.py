"""What is done to activations: clamp SAE latents, add a direction.

Every intervention at a site computes a change from the same activations; the changes are summed and added once, in
float32, and cast back once. Because a change is added and the reconstruction never replaces the activations, the
SAE's error term stays exactly as it was, and a change of zero gives back the activations bit for bit.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from numbers import Real
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saes import SAE
from steer.checks import require_finite
from steer.errors import PlanError
from steer.models.hooks import Edit
from steer.models.passes import Pass, after_first
from steer.models.site import Site

FLOAT32 = torch.finfo(torch.float32).max


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
    where: Site | str | None = None
    """Where to act, a site or its name; None: the site that the SAE was trained on."""
    _index: Int[Tensor, " n"] = field(init=False)
    _values: Float[Tensor, "rows n"] = field(init=False)

    def __post_init__(self) -> None:
        _check_sae(self.sae)
        if not isinstance(self.latents, Mapping) or not self.latents:
            raise PlanError(f"Clamp needs at least one latent, as {{latent: value}}: got {self.latents!r}.")
        index = _check_latents(self.latents, self.sae.config.d_sae)
        if len(set(index)) < len(index):  # keys that differ may name one latent: torch.tensor(5) twice
            raise PlanError(f"A latent is given twice in one Clamp: got {index}. Give one value for each latent.")
        columns = [_column(value) for value in self.latents.values()]
        lengths = {len(column) for column in columns} - {1}
        if len(lengths) > 1:
            raise PlanError(f"Values per row must be equally many for all latents, got {sorted(lengths)}.")
        device = self.sae.W_dec.device
        values = torch.stack([column.to(device) for column in torch.broadcast_tensors(*columns)], dim=-1)
        # a copy: what the caller does to the dict or its tensors later must not change what is set
        object.__setattr__(self, "latents", dict(zip(index, map(_kept, columns), strict=True)))
        object.__setattr__(self, "_index", torch.tensor(index, device=device))
        object.__setattr__(self, "_values", values)
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
        return _scaled((target.unsqueeze(1) - now) @ self.sae.W_dec[self._index], self.sae, x)


@dataclass(frozen=True, eq=False)
class ClampEachRow:
    """Set another SAE latent in each row of a batch: many candidates measured in one pass."""

    sae: SAE
    latents: Int[Tensor, " rows"]
    value: float
    """Activation to set, in raw units."""
    where: Site | str | None = None
    """Where to act, a site or its name; None: the site that the SAE was trained on."""

    def __post_init__(self) -> None:
        _check_sae(self.sae)
        if not isinstance(self.latents, Tensor) or self.latents.ndim != 1:
            raise PlanError(f"Latents must be a tensor of shape [rows], got {self.latents!r}.")
        _check_latents(self.latents.tolist(), self.sae.config.d_sae)
        require_finite("value", self.value, PlanError, FLOAT32)
        object.__setattr__(self, "latents", self.latents.detach().clone())
        self.site  # noqa: B018  # raises now if neither side names a site

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
        return _scaled((self.value - now) * self.sae.W_dec[latent].unsqueeze(1), self.sae, x)


@dataclass(frozen=True, eq=False)
class AddDirection:
    """Add a direction of a given length to the residual stream: ``x' = x + strength * v / |v|``."""

    where: Site | str
    """Where to act, a site or its name."""
    direction: Float[Tensor, " d_model"]
    strength: float
    """Length of what is added, in units of the residual stream."""
    _unit: Float[Tensor, " d_model"] = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.direction, Tensor) or self.direction.ndim != 1:
            shape = list(self.direction.shape) if isinstance(self.direction, Tensor) else type(self.direction).__name__
            raise PlanError(f"A direction must be a tensor of shape [d_model], got {shape}.")
        require_finite("strength", self.strength, PlanError, FLOAT32)
        object.__setattr__(self, "direction", self.direction.detach().clone())
        exact = self.direction.cpu().double()
        largest = exact.abs().max().item() if len(exact) else 0.0
        if not 0 < largest < float("inf"):
            raise PlanError(f"A direction must be finite and must not be zero: its largest component is {largest}.")
        exact = exact / largest  # so that no square is lost or infinite
        object.__setattr__(self, "_unit", (exact / exact.norm()).float().to(self.direction.device))
        self.site  # noqa: B018  # raises now if the name is no site

    @property
    def site(self) -> Site:
        """Where it acts."""
        return Site.parse(self.where)

    def check(self, d_model: int) -> None:
        """Raise PlanError if the direction has another width than the residual stream."""
        if len(self.direction) != d_model:
            raise PlanError(f"The direction has {len(self.direction)} dimensions, the model {d_model}.")

    def to(self, device: torch.device) -> "AddDirection":
        """The same with its tensors on ``device``."""
        return AddDirection(self.where, self.direction.to(device), self.strength)

    def change(self, x: Float[Tensor, "batch seq d_model"], at: Pass) -> Float[Tensor, "batch seq d_model"]:
        """The same vector at every token."""
        return (self.strength * self._unit).expand_as(x)


def acts_on(at: Pass) -> Bool[Tensor, "batch seq"]:
    """Tokens that interventions act on, prompt and generated ones alike: those that SAEs are trained on."""
    return after_first(at.real, at.positions)


def combine(interventions: Sequence[Intervention]) -> Edit:
    """One edit for all interventions of a site; the order does not matter, since all read the same activations."""

    def edit(x: Float[Tensor, "batch seq d_model"], at: Pass) -> Float[Tensor, "batch seq d_model"]:
        exact = x.float()
        change = torch.stack([intervention.change(exact, at) for intervention in interventions]).sum(0)
        return (exact + change * acts_on(at).unsqueeze(-1)).to(x.dtype)

    return edit


def check_set_once(interventions: Sequence[Intervention]) -> None:
    """Check the interventions of a site together.

    Raises:
        PlanError: two of them set the same latent of the same SAE, so their changes would add up to neither's value.
    """
    clamps = [one for one in interventions if isinstance(one, Clamp | ClampEachRow)]
    for first, second in combinations(clamps, 2):
        twice = _set_by_both(first, second)
        if twice and _same(first.sae, second.sae):
            raise PlanError(
                f"Latent {twice[0]} is set twice at {first.site}: the two changes would add up. Give one Clamp with "
                "one value for each latent."
            )


def _set_by_both(first: "Clamp | ClampEachRow", second: "Clamp | ClampEachRow") -> list[int]:
    """Latents that both set in some row."""
    one, other = (
        clamp._index.cpu().unsqueeze(0) if isinstance(clamp, Clamp) else clamp.latents.cpu().unsqueeze(-1)
        for clamp in (first, second)
    )  # each [rows, n], with 1 row where all rows are alike
    if len(one) != len(other) and 1 not in (len(one), len(other)):
        return []  # values for different numbers of rows: refused when it is run
    equal = one.unsqueeze(-1) == other.unsqueeze(-2)
    return sorted(set(one.unsqueeze(-1).expand_as(equal)[equal].tolist()))


def _same(first: SAE, second: SAE) -> bool:
    """Whether two SAEs have the same latents: one object, or copies of it (loaded twice, or on two devices)."""
    if first is second:
        return True
    return first.config == second.config and torch.equal(first.W_dec.cpu(), second.W_dec.cpu())


def _check_rows(values: int, at: Pass) -> None:
    if values not in (1, at.n_rows):
        raise PlanError(f"An intervention has values for {values} rows, but {at.n_rows} rows are run.")


def _site_of(sae: SAE, given: Site | str | None) -> Site:
    if given is not None:
        return Site.parse(given)
    if sae.config.site is None:
        raise PlanError("The SAE does not say which site it was trained on. Name it, for example Site(1).")
    return Site.parse(sae.config.site)


def _check_sae(sae: object) -> None:
    if not isinstance(sae, SAE):
        raise PlanError(f"A clamp needs an SAE, such as saes.load(folder) gives, got {type(sae).__name__}.")
    if sae.config.is_transcoder:
        raise PlanError(
            "A clamp changes the activations that an SAE reads, but a transcoder writes others than it reads "
            f"({sae.config.site} to {sae.config.site_out}). Give an autoencoder."
        )
    if other := {parameter.dtype for parameter in sae.parameters()} - {torch.float32}:
        dtypes = ", ".join(sorted(map(str, other)))
        raise PlanError(f"A clamp is computed in float32, but the SAE has weights in {dtypes}. Give sae.float().")


def _scaled(change: Tensor, sae: SAE, x: Tensor) -> Tensor:
    """A change in the SAE's units in those of the activations: they differ where it normalises each token."""
    scale = sae.output_scale(x)
    return change if scale is None else change * scale


def _check_width(sae: SAE, d_model: int) -> None:
    if sae.config.d_in != d_model:
        raise PlanError(
            f"The SAE reads activations of width {sae.config.d_in} (d_in), but the model's residual stream is "
            f"{d_model} wide. It was trained on {sae.config.model or 'another model'}; use that model."
        )


def _check_latents(latents: Iterable[object], d_sae: int) -> list[int]:
    """The latents as plain integers, each one of the SAE's."""
    indices = []
    for latent in latents:
        try:
            index = operator.index(latent)  # type: ignore[arg-type]  # whatever it is; floats are refused
        except TypeError:
            index = None
        if index is None or isinstance(latent, bool):
            raise PlanError(f"A latent is a whole number, got {type(latent).__name__} {latent!r}.")
        if not 0 <= index < d_sae:
            raise PlanError(
                f"Latent {index} is out of range: the SAE has d_sae = {d_sae} latents, "
                f"so the valid range is 0 to {d_sae - 1}."
            )
        indices.append(index)
    return indices


def _column(value: object) -> Float[Tensor, " rows"]:
    """A value to set, or one for each row, as finite float32 in a tensor of its own."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    try:
        given = torch.as_tensor(value, dtype=torch.float64 if number else None).detach()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise PlanError(f"A clamp value must be a number or a tensor with one for each row, got {value!r}.") from error
    if given.ndim > 1 or given.is_complex() or given.dtype == torch.bool:
        raise PlanError(
            "A clamp value must be a number or a tensor with one for each row, "
            f"got {given.dtype} of shape {list(given.shape)}."
        )
    column = given.to(torch.float32, copy=True).reshape(-1)
    if not len(column) or not torch.isfinite(column).all():
        raise PlanError(f"A clamp value must be finite in float32, got {value!r}.")
    return column


def _kept(column: Float[Tensor, " rows"]) -> float | Tensor:
    """A value as a Clamp shows it: a number where all rows are alike."""
    return column.item() if len(column) == 1 else column
