"""Interventions of single rows: every row of a batch may be steered in its own way."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steer.checks import require_whole
from steer.errors import PlanError
from steer.models.passes import Pass
from steer.models.site import Site
from steer.steering.intervention import Intervention
from steer.steering.window import Window


@dataclass(frozen=True, eq=False)
class OnRows:
    """An intervention on some rows of a call; the others are left alone, bit for bit.

    Raises:
        PlanError: there is no row, or a row is no whole number or below 0.
    """

    intervention: Intervention
    rows: Sequence[int]
    """Which rows of the call, from 0."""
    of: int | None = None
    """How many rows the call has. Only needed where the model is run by itself: whoever runs it then may have made
    several rows of each prompt (beams), and nobody tells which is which."""
    _chosen: Bool[Tensor, " rows"] = field(init=False)

    def __post_init__(self) -> None:
        if self.of is not None:
            require_whole("of", self.of, PlanError)
        rows = tuple(self.rows) if isinstance(self.rows, Iterable) else ()
        if not rows or any(not isinstance(row, int) or isinstance(row, bool) or row < 0 for row in rows):
            raise PlanError(f"Rows must be whole numbers from 0 on, at least one, got {self.rows!r}.")
        object.__setattr__(self, "rows", tuple(sorted(set(rows))))
        chosen = torch.zeros(self.rows[-1] + 1, dtype=torch.bool)
        chosen[list(self.rows)] = True
        object.__setattr__(self, "_chosen", chosen)

    @property
    def site(self) -> Site:
        """Where it acts."""
        return self.intervention.site

    @property
    def window(self) -> Window:
        """On which tokens."""
        return self.intervention.window

    def check(self, d_model: int) -> None:
        """Raise PlanError if it does not fit a residual stream of width ``d_model``."""
        self.intervention.check(d_model)

    def to(self, device: torch.device) -> "OnRows":
        """The same with its tensors on ``device``."""
        moved = replace(self, intervention=self.intervention.to(device))
        object.__setattr__(moved, "_chosen", self._chosen.to(device))
        return moved

    def change(self, x: Float[Tensor, "batch seq d_model"], at: Pass) -> Float[Tensor, "batch seq d_model"]:
        """The intervention's change on its rows, computed on them alone, and zero on the others."""
        check_steered_rows(self.rows[-1], self.of, at)
        chosen = self._chosen[at.rows.clamp_max(self.rows[-1])] & (at.rows <= self.rows[-1])
        if chosen.all():
            return self.intervention.change(x, at)
        change = torch.zeros_like(x)
        if chosen.any():
            change[chosen] = self.intervention.change(x[chosen], _part(at, chosen))
        return change


def check_steered_rows(last: int, of: int | None, at: Pass) -> None:
    """Raise PlanError if the last row that is to be steered is not in the call, or rows cannot be told apart."""
    if of is None and not at.named:
        raise PlanError(
            "The model was run by itself, so nobody says which of its rows are which: several may be beams of one "
            "prompt. Use LanguageModel.generate, or say how many rows there are: OnRows(..., of=rows)."
        )
    if of is not None and of != at.n_rows:
        raise PlanError(f"Rows of a call of {of} are to be steered, but {at.n_rows} rows are run (beams, perhaps).")
    if last >= at.n_rows:
        raise PlanError(f"Row {last} is to be steered, but only {at.n_rows} rows are run.")


def _part(at: Pass, chosen: Bool[Tensor, " batch"]) -> Pass:
    """The pass of the chosen rows; they keep their numbers."""

    def of(tensor: Int[Tensor, "..."] | None) -> Int[Tensor, "..."] | None:
        return None if tensor is None else tensor[chosen]

    return replace(
        at,
        real=at.real[chosen],
        positions=at.positions[chosen],
        generated=at.generated[chosen],
        tokens=of(at.tokens),
        prompt_tokens=of(at.prompt_tokens),
        rows=at.rows[chosen],
    )
