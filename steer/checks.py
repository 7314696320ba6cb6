"""Checks of values that come from outside, shared by the entrances that take them."""

from steer.errors import SteerError


def require_whole(name: str, value: object, error: type[SteerError], least: int = 1) -> None:
    """Raise ``error`` unless ``value`` is a whole number (no bool) from ``least`` to 2^62."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**62:
        raise error(f"{name} must be a whole number of at least {least}, got {value!r}.")


def require_finite(name: str, value: object, error: type[SteerError], largest: float = float("inf")) -> None:
    """Raise ``error`` unless ``value`` is a finite number (no bool), of at most ``largest`` in size."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < float("inf"):
        raise error(f"{name} must be a finite number, got {value!r}.")
    if abs(value) > largest:
        raise error(f"{name} must be finite in float32, so at most {largest:.1e} in size, got {value!r}.")
