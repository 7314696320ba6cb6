"""JSON data as TOML (the standard library reads it, but does not write it)."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(data: Mapping[str, Any]) -> str:
    """An object as TOML: tables for objects, one table for each object of a list, what lies deeper in one line.

    ``data`` has texts, whole numbers, finite floats, booleans, lists and objects.
    """
    plain = [f"{_key(name)} = {_value(value)}" for name, value in data.items() if not _is_table(value)]
    blocks = ["\n".join(plain)] if plain else []
    for name, value in data.items():
        if isinstance(value, Mapping):
            blocks += _tables(_key(name), value)
        elif _is_table(value):
            blocks += [f"[[{_key(name)}]]\n" + _lines(one) for one in value]
    return "\n\n".join(blocks) + "\n"


def _tables(name: str, value: Mapping[str, Any]) -> list[str]:
    """A table; one whose values are all objects as a table for each of them."""
    if value and all(isinstance(one, Mapping) for one in value.values()):
        return [f"[{name}.{_key(inner)}]\n{_lines(one)}" for inner, one in value.items()]
    return [f"[{name}]\n{_lines(value)}"]


def _lines(table: Mapping[str, Any]) -> str:
    return "\n".join(f"{_key(name)} = {_value(value)}" for name, value in table.items())


def _is_table(value: Any) -> bool:
    """Whether it is an object, or a list of objects."""
    if isinstance(value, Mapping):
        return True
    several = isinstance(value, Sequence) and not isinstance(value, str) and bool(value)
    return several and all(isinstance(one, Mapping) for one in value)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(name)} = {_value(one)}" for name, one in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value)
