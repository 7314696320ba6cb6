"""What may come next on a line, for completion with the tab key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from steer.explore.bench import Bench
from steer.explore.command import Command
from steer.explore.commands import COMMANDS
from steer.explore.commands.clamp import edited_latents
from steer.explore.commands.search import OPTIONS, PARTS
from steer.explore.commands.settings import SETTINGS
from steer.explore.session import Session, SessionCommand

MOST = 50  # offers


@dataclass(frozen=True)
class Offer:
    """A way to go on."""

    text: str
    """What the last word becomes."""
    replaces: int
    """Characters before the cursor that it replaces."""
    about: str = ""


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
    word = rest.rpartition(" ")[2]
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
        return _beginning(word, [(f"{one}=", "") for one in PARTS])
    return _beginning(word, [(one, every[one].help) for one in every]) if completes == "command" else []


def _beginning(word: str, found: Sequence[tuple[str, str]]) -> list[Offer]:
    return [Offer(text, len(word), about) for text, about in found if text.startswith(word) and text != word][:MOST]


def _files(word: str) -> list[Offer]:
    """Files and folders whose names begin with what is typed."""
    folder, _, begun = word.rpartition("/")
    try:
        start = Path(f"{folder}/" if folder or word.startswith("/") else ".").expanduser()
        inside = sorted(one for one in start.iterdir() if one.name.startswith(begun) and _is_offered(one.name, begun))
        ends = ["/" if one.is_dir() else "" for one in inside]
    except (OSError, RuntimeError):  # RuntimeError: ``~`` and the name of nobody
        return []
    return [Offer(f"{one.name}{end}", len(begun)) for one, end in zip(inside, ends, strict=True)][:MOST]


def _is_offered(name: str, begun: str) -> bool:
    return begun.startswith(".") or not name.startswith(".")
