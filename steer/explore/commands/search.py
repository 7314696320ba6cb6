"""``/search`` and ``/contrast``: which latent is it (``steer.search``)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

from steer.checks import hint
from steer.errors import DataError
from steer.explore.bench import Bench
from steer.explore.command import Command, Outcome, words_of
from steer.explore.commands.prompt import asked
from steer.explore.no_index import NoIndex
from steer.explore.shown import Line, Shown, Table
from steer.explore.state import State
from steer.search.contrast import ContrastConfig
from steer.search.direction import read_direction
from steer.search.pooled import Pool
from steer.search.prompt_sets import read_prompts
from steer.search.query import ContrastQuery, PromptQuery, Query
from steer.search.run import search as searched

PARTS = ("promotes", "suppresses", "prompt", "part", "pool", "like", "direction", "by", "where", "limit")
"""What may be given to ``/search`` as ``name=value``; all else are words."""
OPTIONS = ("part", "pool", "fdr", "limit")
"""What may be given to ``/contrast``."""


def search(state: State, arguments: str, bench: Bench) -> Outcome:
    """Latents by any mixture of words, tokens, a prompt, a direction, a column, fused by rank.

    Raises:
        DataError: nothing is asked for, a part is malformed, or needs an index where there is none.
    """
    words, given = _parts(arguments, PARTS, words=True)
    asks: dict[str, Any] = {"limit": state.top}
    if words:
        asks["words"] = " ".join(words)
    for name, values in given.items():
        if name == "where":
            asks["filters"] = tuple(values)
        elif name in ("like", "limit"):
            asks[name] = bench.latent(values[0]) if name == "like" else _whole(name, values[0])
        elif name in ("promotes", "suppresses"):
            asks[name] = _token(values[0])
        elif name == "prompt":
            asks["prompt"] = PromptQuery(state.conversation(asked(state, values[0])), *_counted(given))
        elif name == "direction":
            asks["direction"] = _direction(values[0], bench)
        elif name == "by":
            asks["by"] = values[0]
    if given.keys() & {"part", "pool"} and "prompt" not in given:
        raise DataError("part and pool are of a prompt: give prompt= too (without a text, the last one).")
    return Outcome(state, _found(Query(**asks), bench))


def contrast(state: State, arguments: str, bench: Bench) -> Outcome:
    """What fires more on the prompts of one file than on those of another, with the statistics of it.

    Raises:
        DataError: two files are needed; one cannot be read, or holds too few prompts.
    """
    files, given = _parts(arguments, OPTIONS, words=True)
    if len(files) != 2:
        raise DataError(f"/contrast needs two files of prompts, got {len(files)}.")
    copies = {
        name: f"{number}{'.jsonl' if Path(name).suffix == '.jsonl' else '.txt'}" for number, name in enumerate(files)
    }
    sets = []
    for name, copy in copies.items():
        with bench.files.copied({name: copy}) as folder:
            try:
                sets.append(read_prompts(folder / copy))
            except DataError as error:
                raise DataError(str(error).replace(str(folder / copy), name)) from error
    if len(sets) < 2:
        raise DataError(f"/contrast needs two files of prompts, got {files[0]} twice.")
    part, pool = _counted(given)
    config = ContrastConfig(fdr=_number("fdr", given["fdr"][0])) if "fdr" in given else ContrastConfig()
    limit = _whole("limit", given["limit"][0]) if "limit" in given else state.top
    query = Query(contrast=ContrastQuery(sets[0], sets[1], part, pool, config=config), limit=limit)
    return Outcome(state, _found(query, bench))


def _parts(arguments: str, names: tuple[str, ...], words: bool) -> tuple[list[str], dict[str, list[str]]]:
    """Plain words, and what is given by name."""
    plain: list[str] = []
    given: dict[str, list[str]] = {}
    for word in words_of(arguments):
        name, sign, value = word.partition("=")
        if not sign or not name.isidentifier():
            plain.append(word)
        elif name not in names:
            raise DataError(f"{name!r} is nothing that can be given. {hint(name, names, 'There are')}")
        elif name in given and name != "where":
            raise DataError(f"{name} is given twice. Give it once.")
        else:
            given.setdefault(name, []).append(value)
    return plain, given


def _found(query: Query, bench: Bench) -> tuple[Shown, ...]:
    """The hits, and what the user should know of them."""
    index = NoIndex(bench.sae.config.d_sae, bench.renderer) if bench.index is None else bench.index
    result = searched(index, query, bench.lm, bench.sae)
    labels = [bench.label(hit.latent) for hit in result.hits]
    rows = [
        [
            str(hit.latent),
            f"{hit.score:.4f}",
            *([label] if any(labels) else []),
            "; ".join(reason.text for reason in hit.reasons),
        ]
        for hit, label in zip(result.hits, labels, strict=True)
    ]
    columns = ["latent", "score", *(["label"] if any(labels) else []), "why"]
    found: list[Shown] = [Table("Latents found", columns, rows)] if rows else [Line("No latent was found.")]
    return (*found, *(Line(f"note: {note}") for note in result.notes))


def _counted(given: Mapping[str, list[str]]) -> tuple[str, Pool]:
    """Which tokens count, and how their activations become one."""
    part, pool = (given.get(name, [default])[0] for name, default in (("part", "whole"), ("pool", "max")))
    if pool not in get_args(Pool):
        raise DataError(f"pool must be {' or '.join(get_args(Pool))}, got {pool!r}.")
    return part, cast(Pool, pool)


def _token(text: str) -> str | int:
    """A token by its text, or ``#123`` by its number."""
    number = text.removeprefix("#")
    return int(number) if text.startswith("#") and number.isascii() and number.isdigit() else text


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


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 0 < int(text) < 2**31:
        raise DataError(f"{name} needs a whole number above 0, got {text!r}.")
    return int(text)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{name} needs a number, got {text!r}.") from None


SEARCH = Command(
    "search",
    "[WORDS] [promotes=TOKEN] [suppresses=TOKEN] [prompt=[TEXT]] [like=LATENT] [direction=FILE] [by=COLUMN] "
    "[where=CONDITION] [limit=N]",
    "find latents by any mixture of these",
    search,
    "query",
)  # fmt: skip
CONTRAST = Command(
    "contrast",
    "FILE FILE [part=whole] [pool=max] [fdr=0.05] [limit=N]",
    "what tells two sets of prompts apart",
    contrast,
    "file",
)
