"""Reading what an evaluation has written; it may have been edited since, or damaged."""

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from steer.errors import DataError

_BETTER, _SPLITS = ("higher", "lower"), ("", "dev", "test")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object of a file, with finite numbers.

    Raises:
        DataError: the file is missing, or holds something else.
    """
    try:
        found = json.loads(path.read_bytes(), parse_constant=_finite, parse_float=_finite)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}).") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(found).__name__}.")
    return found


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no number of JSON")
    return number


def wrong_settings(found: Mapping[str, Any]) -> str:
    """What of the settings of a task is missing or of another type, in words; empty where they can be worked with."""
    limit, settings, metrics = (found.get(name) for name in ("max_new_tokens", "settings", "metrics"))
    right = {
        "metrics": isinstance(metrics, list) and bool(metrics) and all(map(_is_metric, metrics)),
        "settings": isinstance(settings, dict),
        "split": not isinstance(settings, dict) or settings.get("split", "") in _SPLITS,
        "cluster": isinstance(found.get("cluster"), str),
        "max_new_tokens": type(limit) is int and limit > 0,
        "stop": are_texts(found.get("stop")),
    }
    return next((repr(name) for name, is_right in right.items() if not is_right), "")


def _is_metric(one: Any) -> bool:
    if not isinstance(one, dict) or not are_texts([one.get("name"), one.get("title"), one.get("unit", "")]):
        return False
    return one.get("better") in _BETTER and type(one.get("main")) is bool and are_texts(one.get("harmonic_of", []))


def are_texts(given: Any) -> bool:
    """Whether it is a list of texts."""
    return isinstance(given, list) and all(isinstance(one, str) for one in given)


def _is_number(one: Any) -> bool:
    return type(one) is float or _is_finite(one)


def _is_finite(one: Any) -> bool:
    return type(one) in (int, float) and abs(one) <= sys.float_info.max  # whole numbers of JSON have no end


_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "a text": lambda one: isinstance(one, str),
    "an object": lambda one: isinstance(one, dict),
    "a whole number": lambda one: type(one) is int,
    "a list of numbers": lambda one: isinstance(one, list) and all(map(_is_number, one)),  # NaN where steering broke it
    "numbers by name": lambda one: isinstance(one, dict) and all(map(_is_finite, one.values())),
    "a number or null": lambda one: one is None or _is_finite(one),
}


def check_kinds(row: Any, kinds: Mapping[str, str]) -> None:
    """See that the fields of a line are what ``kinds`` says of them, where they are there.

    Raises:
        DataError: one is not.
    """
    if not isinstance(row, dict):
        raise DataError(f"expected an object, got {type(row).__name__}")
    for name, kind in kinds.items():
        if name in row and not _KINDS[kind](row[name]):
            raise DataError(f"{name} must be {kind}")
