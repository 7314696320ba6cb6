"""Rows that each have latents of their own edited, in one go: an SAE is asked once for all of them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saes import SAE
from steer.errors import PlanError
from steer.models.passes import Pass
from steer.models.site import Site
from steer.steering.intervention import Intervention
from steer.steering.latents import LatentEdit, check_latents, scaled
from steer.steering.operations import TARGETS, Operation
from steer.steering.rows import OnRows, check_steered_rows
from steer.steering.window import EVERYWHERE, Window


@dataclass(frozen=True, eq=False)
class EachRow:
    """Edits of latents on rows that do not overlap, alike but for rows, latents and values."""

    edits: Sequence[OnRows]
    _first: LatentEdit = field(init=False)
    _index: Int[Tensor, "rows n"] = field(init=False)
    _values: Float[Tensor, "rows n"] = field(init=False)
    _acts: Float[Tensor, "rows n 1"] = field(init=False)
    """1 where a row has a latent, 0 where another row has more of them."""

    def __post_init__(self) -> None:
        of_rows = {row: _latents_of(one) for one in self.edits for row in one.rows}
        first = _latents_of(self.edits[0])
        size = max(of_rows) + 1, max(len(one.latents) for one in of_rows.values())
        index = torch.zeros(size, dtype=torch.long, device=first._index.device)
        values, acts = (torch.zeros(size, device=first._index.device) for _ in range(2))
        for row, one in of_rows.items():
            places = row, slice(len(one.latents))
            index[places], values[places], acts[places] = one._index, one._values[0], 1.0
        object.__setattr__(self, "_first", first)
        object.__setattr__(self, "_index", index)
        object.__setattr__(self, "_values", values)
        object.__setattr__(self, "_acts", acts.unsqueeze(-1))

    @property
    def site(self) -> Site:
        """Where it acts."""
        return self._first.site

    @property
    def window(self) -> Window:
        """On which tokens."""
        return self._first.window

    @property
    def sae(self) -> SAE:
        """Whose latents are edited."""
        return self._first.sae

    def check(self, d_model: int) -> None:
        """Raise PlanError if the SAE reads another width than ``d_model``, or computes otherwise than its edits."""
        self._first.check(d_model)

    def to(self, device: torch.device) -> "EachRow":
        """The same with its tensors on ``device``; the SAE is copied there, once, if it is elsewhere."""
        sae = self.sae.on(device)
        return replace(
            self, edits=[replace(one, intervention=replace(_latents_of(one), sae=sae)) for one in self.edits]
        )

    def change(self, x: Float[Tensor, "batch seq d_model"], at: Pass) -> Float[Tensor, "batch seq d_model"]:
        """What each row's edit adds to it, and zero for a row that has none."""
        of_rows = at.memory.get(self)
        if of_rows is None or not torch.equal(of_rows.rows, at.rows):  # rows change only when some have ended
            at.memory[self] = of_rows = self._of(at)
        now = self.sae.activations_of(x, of_rows.index)
        moved = TARGETS[self._first.operation](now, of_rows.values) - now
        alone = moved.shape[-1] == 1  # a product for each element is then faster than one of matrices for each row
        return scaled(moved * of_rows.directions if alone else moved @ of_rows.directions, self.sae, x)

    def _of(self, at: Pass) -> "_OfRows":
        """What is to be done to the rows of a pass."""
        check_steered_rows(len(self._index) - 1, self.edits[0].of, at)
        rows = at.rows.clamp_max(len(self._index) - 1)
        index, acts = self._index[rows], self._acts[rows] * (at.rows == rows)[:, None, None]
        return _OfRows(at.rows, index, self._values[rows].unsqueeze(1), self.sae.W_dec[index] * acts)


@dataclass(frozen=True, eq=False)
class _OfRows:
    """What is done to the rows that are run."""

    rows: Int[Tensor, " batch"]
    index: Int[Tensor, "batch n"]
    values: Float[Tensor, "batch 1 n"]
    directions: Float[Tensor, "batch n d_model"]


def clamp_each_row(
    sae: SAE,
    latents: Sequence[int],
    value: float | Sequence[float],
    where: Site | str | None = None,
    window: Window = EVERYWHERE,
) -> EachRow:
    """Set a latent of its own in each row of a call to ``value`` (raw units): many candidates measured in one pass.

    ``latents`` has one for each row; ``value`` is one for all or one for each row; ``where`` is the site that the SAE
    was trained on unless it says otherwise.

    Raises:
        PlanError: see ``edit_each_row``.
        SiteError: the site cannot be read.
    """
    return edit_each_row(sae, latents, value, "set", where, window)


def edit_each_row(
    sae: SAE,
    latents: Sequence[int],
    value: float | Sequence[float],
    operation: Operation,
    where: Site | str | None = None,
    window: Window = EVERYWHERE,
) -> EachRow:
    """The same with any operation on the latent, see ``steer.steering.operations``.

    Raises:
        PlanError: there is no latent, one is not the SAE's, or a value is not finite or missing; and when a call has
            other rows.
        SiteError: the site cannot be read.
    """
    places = check_latents(latents, sae.config.d_sae)
    values = list(value) if isinstance(value, Sequence) else [value] * len(places)
    if len(values) != len(places):
        raise PlanError(f"Every row needs a latent and a value: got {len(places)} latents and {len(values)} values.")
    rows: dict[tuple[int, float], list[int]] = defaultdict(list)
    for row, arm in enumerate(zip(places, values, strict=True)):
        rows[arm].append(row)
    if not rows:
        raise PlanError("Every row needs a latent: got none.")
    return EachRow(
        [
            OnRows(LatentEdit(sae, {latent: one}, where, operation, window), its, len(places))
            for (latent, one), its in rows.items()
        ]
    )


def together(interventions: Sequence[Intervention]) -> list[Intervention]:
    """The same interventions, rows' own edits of latents made together where they are alike; the order may differ."""
    others: list[Intervention] = []
    groups: list[list[OnRows]] = []
    for one in interventions:
        if not isinstance(one, OnRows) or not _is_plain(one.intervention):
            others.append(one)
            continue
        fitting = (group for group in groups if _alike(group[0], one) and not _overlap(group, one))
        group = next(fitting, None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    return others + [EachRow(group) if len(group) > 1 else group[0] for group in groups]


def _latents_of(one: OnRows) -> LatentEdit:
    assert isinstance(one.intervention, LatentEdit), "only such are made together"
    return one.intervention


def _is_plain(one: Intervention) -> bool:
    """Whether it is an edit whose change is the sum over its latents, with one value for all of its rows."""
    if not isinstance(one, LatentEdit) or len(one._values) > 1:
        return False
    return (one.membership, one.error, one.unit) == ("allow", "keep", "raw")


def _alike(first: OnRows, second: OnRows) -> bool:
    one, other = _latents_of(first), _latents_of(second)
    alike = (one.site, one.operation, one.window) == (other.site, other.operation, other.window)
    return one.sae is other.sae and first.of == second.of and alike


def _overlap(group: Sequence[OnRows], one: OnRows) -> bool:
    taken = {row for other in group for row in other.rows}
    return not taken.isdisjoint(one.rows)
