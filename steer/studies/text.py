"""Text and numbers that came from a model or a file, made safe to show."""

import sys
import unicodedata
from typing import Any

from markupsafe import Markup


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
