"""Searches as they are typed: words and ``name=value``, read into a ``steer.Query``."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from steer.checks import hint
from steer.errors import DataError
from steer.explore.bench import Bench
from steer.explore.command import words_of
from steer.explore.commands.prompt import asked
from steer.explore.state import State
from steer.search.contrast import ContrastConfig
from steer.search.direction import read_direction
from steer.search.parts import REPLY_TOKENS
from steer.search.pooled import Pool
from steer.search.prompt_sets import read_prompts
from steer.search.query import AttributionQuery, ContrastQuery, MeansQuery, PromptQuery, Prompts, Query

COUNTED = ("part", "pool", "reply_tokens")
"""Which tokens of prompts count, and how their activations become one."""
NEEDS = {
    **dict.fromkeys(COUNTED, ("prompt", "contrast")),
    "fdr": ("contrast",),
    "on": ("attribute",),
    "steps": ("attribute",),
}
"""What is of a part, and says nothing without one."""
PARTS = (
    "meaning", "promotes", "suppresses", "prompt", "contrast", "like", "direction", "means", "attribute", "by", "where",
    "weight", "limit", *NEEDS,
)  # fmt: skip
"""What may be given to ``/search`` as ``name=value``; all else are words."""
OPTIONS = (*COUNTED, "fdr", "limit")
"""What may be given to ``/contrast``."""
FILES = ("contrast", "direction", "means", "on")
"""Parts that are files, or two with a comma between."""
_REPEATED = ("where", "weight")

Given = Mapping[str, list[str]]


def search_query(arguments: str, state: State, bench: Bench) -> Query:
    """The query of ``/search``.

    Raises:
        DataError: a part is unknown or malformed, needs another one, or an index where there is none.
    """
    words, given = _parts(arguments, PARTS)
    for name, others in NEEDS.items():
        if name in given and not any(other in given for other in others):
            raise DataError(f"{name} is of {' or '.join(others)}: give {'= or '.join(others)}= too.")
    read: dict[str, Callable[[], Any]] = {
        "meaning": lambda: _meaning(given["meaning"][0], bench),
        "promotes": lambda: _token(given["promotes"][0]),
        "suppresses": lambda: _token(given["suppresses"][0]),
        "prompt": lambda: PromptQuery(_prompt(given, state), *_counted(given)),
        "contrast": lambda: _contrast(_two("contrast", given["contrast"][0]), given, bench),
        "like": lambda: bench.latent(given["like"][0]),
        "direction": lambda: _direction(given["direction"][0], bench),
        "means": lambda: MeansQuery(*_sets(_two("means", given["means"][0]), bench)),
        "attribute": lambda: _attribution(given, state, bench),
        "by": lambda: given["by"][0],
        "where": lambda: tuple(given["where"]),
        "weight": lambda: dict(map(_weight, given["weight"])),
    }
    fields = {"attribute": "attribution", "where": "filters", "weight": "weights"}
    asks = {fields.get(name, name): make() for name, make in read.items() if name in given}
    if words:
        asks["words"] = " ".join(words)
    if asks.keys() <= {"filters", "weights"}:
        choices = [one for one in PARTS if one not in (*NEEDS, "where", "weight", "limit")]
        raise DataError(f"Nothing is asked for: give words, or one of {', '.join(f'{one}=' for one in choices)}.")
    return Query(**asks, limit=_limit(given, state))


def contrast_query(arguments: str, state: State, bench: Bench) -> Query:
    """The query of ``/contrast``.

    Raises:
        DataError: two files are needed; one cannot be read, or holds no prompt.
    """
    files, given = _parts(arguments, OPTIONS)
    if len(files) != 2:
        raise DataError(f"/contrast needs two files of prompts, got {len(files)}.")
    return Query(contrast=_contrast(files, given, bench), limit=_limit(given, state))


def _parts(arguments: str, names: tuple[str, ...]) -> tuple[list[str], dict[str, list[str]]]:
    """Plain words, and what is given by name."""
    plain: list[str] = []
    given: dict[str, list[str]] = {}
    for word in words_of(arguments):
        name, sign, value = word.partition("=")
        if not sign or not name.isidentifier():
            plain.append(word)
        elif name not in names:
            raise DataError(f"{name!r} is nothing that can be given. {hint(name, names, 'There are')}")
        elif name in given and name not in _REPEATED:
            raise DataError(f"{name} is given twice. Give it once.")
        else:
            given.setdefault(name, []).append(value)
    return plain, given


def _meaning(text: str, bench: Bench) -> str:
    if bench.index is None:
        raise DataError("Labels are looked up in an index: start with --index DIR.")
    if bench.embedder is None:
        raise DataError("A search by meaning needs a local model of embeddings: start with --embedder DIR.")
    return text


def _prompt(given: Given, state: State) -> Any:
    """The prompt that is given, or else the last one, as a conversation."""
    return state.conversation(asked(state, given.get("prompt", [""])[0]))


def _contrast(files: Sequence[str], given: Given, bench: Bench) -> ContrastQuery:
    config = ContrastConfig(fdr=_number("fdr", given["fdr"][0])) if "fdr" in given else ContrastConfig()
    first, second = _sets(files, bench)
    part, pool, reply_tokens = _counted(given)
    return ContrastQuery(first, second, part, pool, reply_tokens, config)


def _attribution(given: Given, state: State, bench: Bench) -> AttributionQuery:
    """On the prompts of a file, or else on the prompt that is given or was the last."""
    toward, against = map(_token, _two("attribute", given["attribute"][0]))
    prompts = _prompts(given["on"][0], bench) if "on" in given else [_prompt(given, state)]
    return AttributionQuery(prompts, toward, against, _whole("steps", given["steps"][0]) if "steps" in given else None)


def _sets(files: Sequence[str], bench: Bench) -> tuple[Prompts, Prompts]:
    """Two sets of prompts."""
    if files[0] == files[1]:
        raise DataError(f"Two files of prompts are needed, got {files[0]} twice.")
    return _prompts(files[0], bench), _prompts(files[1], bench)


def _prompts(name: str, bench: Bench) -> Prompts:
    """The prompts of a file."""
    copy = "prompts.jsonl" if Path(name).suffix == ".jsonl" else "prompts.txt"
    with bench.files.copied({name: copy}) as folder:
        try:
            return read_prompts(folder / copy)
        except DataError as error:
            raise DataError(str(error).replace(str(folder / copy), name)) from error


def _direction(given: str, bench: Bench) -> Any:
    """The vector of a safetensors file, ``FILE`` or ``FILE:TENSOR``."""
    name, tensor = given, None
    if ".safetensors:" in given:
        name, _, tensor = given.rpartition(":")
    with bench.files.copied({name: "direction.safetensors"}) as folder:
        try:
            return read_direction(folder / "direction.safetensors", tensor)
        except DataError as error:
            raise DataError(str(error).replace(str(folder / "direction.safetensors"), name)) from error


def _counted(given: Given) -> tuple[str, Pool, int]:
    """Which tokens count, how their activations become one, and how long a reply of the model's own is."""
    part, pool = (given.get(name, [default])[0] for name, default in (("part", "whole"), ("pool", "max")))
    if pool not in get_args(Pool):
        raise DataError(f"pool must be {' or '.join(get_args(Pool))}, got {pool!r}.")
    tokens = _whole("reply_tokens", given["reply_tokens"][0]) if "reply_tokens" in given else REPLY_TOKENS
    return part, cast(Pool, pool), tokens


def _two(name: str, text: str) -> list[str]:
    """What stands before and behind the comma."""
    parts = text.split(",")
    if len(parts) != 2 or not all(parts):
        raise DataError(f"{name} needs two with a comma between: {name}=ONE,OTHER, got {text!r}.")
    return parts


def _token(text: str) -> str | int:
    """A token by its text, or ``#123`` by its number."""
    number = text.removeprefix("#")
    return int(number) if text.startswith("#") and number.isascii() and number.isdigit() else text


def _weight(text: str) -> tuple[str, float]:
    """``words=2``: a part and what it weighs in the fusion."""
    name, sign, number = text.partition("=")
    if not sign:
        raise DataError(f"weight needs a part and a number, such as weight=words=2, got {text!r}.")
    return {"attribute": "attribution"}.get(name, name), _number(f"The weight of {name}", number)


def _limit(given: Given, state: State) -> int:
    return _whole("limit", given["limit"][0]) if "limit" in given else state.top


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or not 0 < int(text) < 2**31:
        raise DataError(f"{name} needs a whole number above 0, got {text!r}.")
    return int(text)


def _number(name: str, text: str) -> float:
    try:
        if "_" in text:
            raise ValueError
        return float(text)
    except ValueError:
        raise DataError(f"{name} needs a number, got {text!r}.") from None
