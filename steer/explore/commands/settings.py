"""``/set``, ``/system`` and ``/state``: how replies are generated, and what the session is at."""

import shlex
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from steer.checks import hint, require_whole
from steer.errors import DataError
from steer.explore.bench import Bench, absolute
from steer.explore.clamps import changed
from steer.explore.command import Command, Outcome, words_of
from steer.explore.commands.clamp import described
from steer.explore.shown import Line, Shown, Table
from steer.explore.state import State
from steer.models.decode import Sampling
from steer.plans.plan import SamplingSpec


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


def _texts(text: str) -> tuple[str, ...]:
    return (text,) if text else ()


_KINDS: dict[type, tuple[Callable[[str], Any], str]] = {
    bool: (_flag, "true or false"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    tuple: (_texts, "a text"),
}
SETTINGS = (*(one.name for one in fields(Sampling)), "top")
"""What ``/set`` takes: the fields of ``Sampling``, and how many latents a table shows."""


def set_(state: State, arguments: str, bench: Bench) -> Outcome:
    """Change settings, such as ``temperature=0.7 seed=1``; without any, show them.

    Raises:
        DataError: one is unknown or given twice, or a value is not of its kind.
        PlanError: a value is out of range.
    """
    given: dict[str, Any] = {}
    for word in words_of(arguments):
        name, sign, value = word.partition("=")
        if name not in SETTINGS:
            raise DataError(f"No setting is called {name!r}. {hint(name, SETTINGS, 'They are')}")
        if name in given:
            raise DataError(f"{name} is given twice. Give it once.")
        kind, called = _KINDS[type(getattr(state if name == "top" else Sampling(), name))]
        try:
            if not sign or ("_" in value and kind is not _texts):
                raise ValueError
            given[name] = kind(value)
        except ValueError:
            raise DataError(f"{name} needs {called}: {name}=..., got {word!r}.") from None
    top = given.pop("top", state.top)
    require_whole("top", top, DataError)
    sampling = replace(state.sampling, **given)
    SamplingSpec(**vars(sampling))  # what a plan, and so a recipe, can hold
    state = replace(state, sampling=sampling, top=top)
    return Outcome(state, (Line(settings(state)),))


def settings(state: State) -> str:
    """The settings as they are typed."""
    both = {**vars(state.sampling), "top": state.top}
    return " ".join(f"{name}={_typed(value)}" for name, value in both.items())


def _typed(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(shlex.quote(text) for text in value)
    return str(value).lower()


def system(state: State, arguments: str, bench: Bench) -> Outcome:
    """Put a system prompt before every prompt; without a text, take it off."""
    plan = changed(state.plan, system=arguments or None)
    told = f"System prompt: {arguments}" if arguments else "There is no system prompt."
    return Outcome(replace(state, plan=plan), (Line(told),))


def show_state(state: State, arguments: str, bench: Bench) -> Outcome:
    """What the session is at."""
    index = "none"
    if bench.index is not None:
        index = f"{absolute(str(bench.index.folder))}, {bench.index.info.tokens:,} tokens"
    config = bench.sae.config
    rows = [
        ["model", f"{bench.lm.name}, {bench.lm.n_layers} layers of width {bench.lm.d_model}"],
        ["SAE", f"{bench.source}, {config.d_sae:,} latents at {bench.site}"],
        ["index", index],
        *(["steering", text] for text in described(state.plan)),
        ["system", state.plan.system or "none"],
        ["settings", settings(state)],
        ["prompt", "none" if state.prompt is None else state.prompt],
        *([["said", f"{len(state.said) // 2} turns, which /more goes on with"]] if state.said else []),
    ]
    shown: tuple[Shown, ...] = (Table("", ["", ""], rows),)
    return Outcome(state, shown)


SET = Command(
    "set",
    "[NAME=VALUE ...]",
    "sampling, such as temperature=0.7 max_new_tokens=100 seed=1, and top=20",
    set_,
    "setting",
)
SYSTEM = Command("system", "[TEXT]", "a system prompt before every prompt; without a text, none", system)
STATE = Command("state", "", "what the session is at", show_state)
