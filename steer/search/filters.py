"""Which latents may be found: conditions on an index's columns, and whether there is a label."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from steer.checks import hint
from steer.errors import DataError

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_ONE = re.compile(rf"\s*([A-Za-z_]\w*)\s*(<=|>=|==|!=|<|>|=)\s*({_NUMBER})\s*", re.ASCII)
_RANGE = re.compile(rf"\s*({_NUMBER})\s*(<=|<)\s*([A-Za-z_]\w*)\s*(<=|<)\s*({_NUMBER})\s*", re.ASCII)
_COMPARE: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
}
_MIRRORED = {"<": ">", "<=": ">="}
LABELLED = {"label": True, "labelled": True, "no-label": False, "unlabelled": False}


@dataclass(frozen=True)
class Condition:
    """A comparison of a column with a number."""

    column: str
    sign: str
    number: float

    def mask(self, values: np.ndarray) -> Bool[np.ndarray, " d_sae"]:
        """For which latents it holds; for none where the column has no value (NaN)."""
        given = np.asarray(values)
        held = np.isfinite(given) & _COMPARE[self.sign](given, self.number)
        return np.asarray(held, dtype=bool)


def parse_filter(text: str) -> tuple[Condition, ...] | bool:
    """``density<0.01``, ``1e-5<density<0.01``, or ``label`` and ``no-label`` (True and False).

    Raises:
        DataError: it has none of these forms.
    """
    if text.strip() in LABELLED:
        return LABELLED[text.strip()]
    if match := _ONE.fullmatch(text):
        return (Condition(match[1], match[2], float(match[3])),)
    if match := _RANGE.fullmatch(text):
        low, sign, column, other, high = match.groups()
        return Condition(column, _MIRRORED[sign], float(low)), Condition(column, other, float(high))
    raise DataError(
        f"Cannot read the filter {text!r}: expected COLUMN<NUMBER (or <=, >, >=, =, !=), NUMBER<COLUMN<NUMBER, label, "
        "or no-label."
    )


def allowed(
    filters: Sequence[str], columns: Mapping[str, np.ndarray], labelled: Callable[[], np.ndarray], d_sae: int
) -> Bool[np.ndarray, " d_sae"] | None:
    """Which latents pass all filters; None without any. ``labelled`` gives the numbers of those with a label.

    Raises:
        DataError: a filter cannot be read, or there is no such column.
    """
    if not filters:
        return None
    mask = np.ones(d_sae, dtype=bool)
    for text in filters:
        parsed = parse_filter(text)
        if isinstance(parsed, bool):
            has = np.zeros(d_sae, dtype=bool)
            has[labelled()] = True
            mask &= has == parsed
            continue
        for condition in parsed:
            mask &= condition.mask(column(columns, condition.column, d_sae))
    return mask


def column(columns: Mapping[str, np.ndarray], name: str, d_sae: int) -> np.ndarray:
    """A column of the index, as [d_sae].

    Raises:
        DataError: there is none of this name, or it is of another length.
    """
    if name not in columns:
        known = sorted(columns)
        raise DataError(f"The index has no column {name!r}. {hint(name, known, 'It has')}")
    values = np.asarray(columns[name])
    if values.shape != (d_sae,):
        raise DataError(
            f"The column {name!r} holds {list(values.shape)} values, expected one for each of {d_sae} latents."
        )
    return values
