"""Options that several commands have, or that belong together, as one dataclass and one parameter of the command."""

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """A command as Typer reads it: a parameter whose type is a dataclass stands for an option of each of its fields.

    The fields are annotated as options are, with the names of parameters that the command does not have itself. Typer
    knows parameters only, so its signature is written out here; the command is called with the dataclass.
    """
    groups: dict[str, type] = {}
    written: list[inspect.Parameter] = []
    for one in inspect.signature(command).parameters.values():
        if is_dataclass(one.annotation) and isinstance(one.annotation, type):
            groups[one.name] = one.annotation
            written += _parameters(one.annotation)
        else:
            written.append(one.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def run(**given: Any) -> None:
        made = {
            name: group(**{own.name: given.pop(own.name) for own in _parameters(group)})
            for name, group in groups.items()
        }
        command(**given, **made)

    run.__signature__ = inspect.Signature(written)  # type: ignore[attr-defined]  # what inspect looks for first
    run.__annotations__ = {one.name: one.annotation for one in written}
    return run


def _parameters(group: type) -> list[inspect.Parameter]:
    """What the fields of a dataclass are as parameters; those that it computes itself are none."""
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=hints[one.name])
        for one in fields(group)
        if one.init
    ]
