"""Text that came from a model, made safe to show."""

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
