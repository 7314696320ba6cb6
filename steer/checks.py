"""Checks of values that come from outside, shared by the entrances that take them."""

import sys
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, TypeVar

from steer.errors import DataError, SteerError

Value = TypeVar("Value", bound=Hashable)
MOST = 2**62
"""Whole numbers are less than this."""


def require_whole(name: str, value: Any, error: type[SteerError], least: int = 1) -> None:
    """Raise ``error`` unless ``value`` is a whole number (no bool) from ``least`` and below 2^62."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if whole and value >= MOST:
        raise error(f"{name} must be a whole number of at least {least}, and less than 2^62, but is larger.")
    if not whole or value < least:
        raise error(f"{name} must be a whole number of at least {least}, got {value!r}.")


def require_finite(name: str, value: Any, error: type[SteerError], largest: float = sys.float_info.max) -> None:
    """Raise ``error`` unless ``value`` is a finite number (no bool) of at most ``largest`` in size."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not abs(value) <= largest:
        raise error(f"{name} must be a finite number of at most {largest:.1e} in size, got {value!r}.")


def seen_twice(values: Iterable[Value]) -> list[Value]:
    """The values that stand more than once, each once, in the order in which they come."""
    return [value for value, count in Counter(values).items() if count > 1]


def require_fields(row: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Raise DataError unless a row of a file has all these fields; ``where`` is its place in words."""
    if missing := [name for name in names if name not in row]:
        raise DataError(f"{where}: the field {missing[0]!r} is missing.")


def hint(name: str, known: Sequence[str], every: str) -> str:
    """What may have been meant by a name that is not known: the nearest known one, or all, told after ``every``."""
    near = get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"{every} {', '.join(known)}."
