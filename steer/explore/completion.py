"""What may come next on a line, for completion with the tab key."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from steer.explore.bench import Bench
from steer.explore.command import Command
from steer.explore.commands import COMMANDS
from steer.explore.commands.clamp import edited_latents
from steer.explore.commands.settings import SETTINGS
from steer.explore.commands.typed_query import FILES, OPTIONS, PARTS
from steer.explore.session import Session, SessionCommand
from steer.search.parts import PARTS as TOKENS_THAT_COUNT
from steer.search.pooled import Pool

MOST = 50  # offers
_LAST_WORD = re.compile(r"""(?:\\.|"[^"]*"?|'[^']*'?|[^\s\\"'])*\\?$""")
_QUOTING = re.compile(r"""\\(.)|["']""")
_NEEDS_QUOTING = re.compile(r"[^\w./~%+:@-]")


@dataclass(frozen=True)
class Offer:
    """A way to go on."""

    text: str
    """What the last word becomes."""
    replaces: int
    """Characters before the cursor that it replaces."""
    about: str = ""
    name: str = ""
    """What it is shown as; empty: as its text."""


def offers(
    line: str, session: Session, bench: Bench, about_session: Mapping[str, SessionCommand], latents: Sequence[int] = ()
) -> list[Offer]:
    """Ways to go on with a line up to the cursor; ``latents`` are those that fired last."""
    if not line.startswith("/") or line.startswith("//"):
        return []
    name, space, rest = line[1:].partition(" ")
    every: dict[str, Command | SessionCommand] = {**COMMANDS, **about_session}
    if not space:
        found = [(f"/{one.name}", one.help) for one in every.values()]
        return _beginning(line, found)
    word = _last_word(rest)
    completes = every[name].completes if name in every else "nothing"
    if completes == "file":
        options = [(f"{one}=", "") for one in OPTIONS] if name == "contrast" and word else []
        return [*_files(word), *_beginning(word, options)]
    if completes == "latent":
        ending = "=" if name == "clamp" else ""
        return _beginning(word, [(f"{latent}{ending}", bench.label(latent)) for latent in latents])
    if completes == "clamped":
        edited = edited_latents(session.state.plan, bench)
        return _beginning(word, [(str(latent), bench.label(latent)) for latent in edited])
    if completes == "setting":
        return _beginning(word, [(f"{one}=", "") for one in SETTINGS])
    if completes == "query":
        return _of_query(word, bench, latents)
    return _beginning(word, [(one, every[one].help) for one in every]) if completes == "command" else []


def _of_query(word: str, bench: Bench, latents: Sequence[int]) -> list[Offer]:
    """Names of the parts of a search and, behind one, what it may be."""
    name, sign, value = word.partition("=")
    if not sign:
        return _beginning(word, [(f"{one}=", "") for one in PARTS])
    if name in FILES:
        return _files(value.rpartition(",")[2])
    known: dict[str, Sequence[object]] = {
        "by": sorted(bench.columns),
        "like": latents,
        "part": TOKENS_THAT_COUNT,
        "pool": get_args(Pool),
    }
    return _beginning(value, [(str(one), "") for one in known.get(name, ())])


def _last_word(text: str) -> str:
    """What is typed of the last word, with its quotes and backslashes."""
    match = _LAST_WORD.search(text)
    assert match is not None, "it may be empty"
    return match[0]


def _beginning(word: str, found: Sequence[tuple[str, str]]) -> list[Offer]:
    return [Offer(text, len(word), about) for text, about in found if text.startswith(word) and text != word][:MOST]


def _files(word: str) -> list[Offer]:
    """Files and folders whose names begin with what is typed; spaces in them behind backslashes."""
    typed = _QUOTING.sub(r"\1", word)
    folder, slash, begun = typed.rpartition("/")
    try:
        start = Path(f"{folder}{slash}" if slash else ".").expanduser()
        inside = sorted(one for one in start.iterdir() if one.name.startswith(begun) and _is_offered(one.name, begun))
        names = [f"{one.name}{'/' if one.is_dir() else ''}" for one in inside]
    except (OSError, RuntimeError, ValueError):  # RuntimeError: nobody's home
        return []
    return [Offer(_NEEDS_QUOTING.sub(r"\\\g<0>", f"{folder}{slash}{name}"), len(word), name=name) for name in names][
        :MOST
    ]


def _is_offered(name: str, begun: str) -> bool:
    return begun.startswith(".") or not name.startswith(".")
