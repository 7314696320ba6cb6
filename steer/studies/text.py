"""Text and numbers that came from a model or a file, made safe to show."""

import sys
import unicodedata
from typing import Any

from markupsafe import Markup

CLIP = 700  # characters of one message or reply that a report shows


def visible(value: Any) -> Any:
    """Text with control, format and line-separator characters and lone surrogates written out as ``[U+202E]``.

    A model may emit a right-to-left override, which would reorder the page around it, or half a surrogate pair, which
    no file can hold. Markup and values that are not text pass unchanged.
    """
    if not isinstance(value, str) or isinstance(value, Markup) or (value.isascii() and value.isprintable()):
        return value
    hidden = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    shown = (f"[U+{ord(c):04X}]" if c not in "\n\t" and unicodedata.category(c) in hidden else c for c in value)
    return "".join(shown)


def is_number(*values: Any) -> bool:
    """Whether all are numbers that a float can hold: not NaN, not infinite, not a whole number of 400 digits."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= sys.float_info.max for v in values)


def percent(value: Any, decimals: int = 1) -> str:
    """A fraction as a percentage, ``0.943`` as ``94.3%``; what is no finite number as ``n/a``."""
    return f"{100 * value:.{decimals}f}%" if is_number(value) else "n/a"


def number(value: Any, form: str = ",.4g") -> str:
    """A number in short form with thousands marked; what is no finite number as ``n/a``."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return format(value, form) if is_number(value) else "n/a"


def clip(text: Any) -> str:
    """The first ``CLIP`` characters, with a note saying how many more there were."""
    whole = str(text or "")
    return whole if len(whole) <= CLIP else f"{whole[:CLIP]} … [{len(whole) - CLIP:,} more characters]"
