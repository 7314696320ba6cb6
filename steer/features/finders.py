"""The methods by name, and what several of them say together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from steer.checks import hint
from steer.errors import DataError
from steer.features import causal
from steer.features.search import Finder, Found, Search
from steer.progress import Progress

FINDERS: Mapping[str, Finder] = {**causal.NAMING, "causal": causal.find}
"""Every method; ``causal`` compares what the others name."""


@dataclass(frozen=True)
class Ranking:
    """What one method says, and what that took."""

    method: str
    """Its name in ``FINDERS``."""
    found: tuple[Found, ...]
    """The latents that it names, the best first."""
    generations: int
    """Replies that were made for it, or found again in ``Trial.kept``; those of the unsteered model are made once for
    all methods, and counted where they are first needed."""
    seconds: float
    """Wall-clock time, of this run alone."""


@dataclass(frozen=True)
class Report:
    """What the methods say."""

    rankings: tuple[Ranking, ...]
    """Of each method, in the order in which they were asked."""
    refereed: causal.Refereed | None
    """The candidates compared; None where ``causal`` was not asked."""

    @property
    def latents(self) -> list[int]:
        """Every latent that was named, the best first: by the referee, else by the sum of reciprocal ranks."""
        if self.refereed is not None:
            return [one.latent for one in self.refereed.curves]
        points: dict[int, float] = {}
        for ranking in self.rankings:
            for place, one in enumerate(ranking.found, start=1):
                points[one.latent] = points.get(one.latent, 0.0) + 1 / place
        return sorted(points, key=lambda latent: (-points[latent], latent))


def methods(names: str) -> list[str]:
    """The methods of a list such as ``paper,contrast``, the referee last; ``all`` means every one.

    Raises:
        DataError: there is no such method, or one stands twice.
    """
    asked = list(FINDERS) if names == "all" else [one.strip() for one in names.split(",")]
    for one in asked:
        if one not in FINDERS:
            raise DataError(f"Unknown method {one!r}. {hint(one, [*FINDERS, 'all'], 'Known are')}")
    if len(set(asked)) < len(asked):
        raise DataError(f"A method stands twice in {names!r}: name each once.")
    return sorted(asked, key=lambda one: one == "causal")


def run(search: Search, asked: Sequence[str], seed: int = 0, progress: Progress | None = None) -> Report:
    """Ask methods one after another; the referee, if asked, compares all that the others name.

    Where ``causal`` is asked alone, all others name its candidates, unless ``search.candidates`` does.

    Raises:
        DataError: a method cannot say anything with these prompts; the message names it.
    """
    progress, done = progress or search.progress, [0]

    def count(replies: int) -> None:
        done[0] += replies
        progress.advance(replies)

    search = replace(search, trial=replace(search.trial, on_done=count), progress=progress)
    naming = [one for one in asked if one != "causal"]
    if "causal" in asked and not naming and not search.candidates:
        naming = list(causal.NAMING)
    rankings: list[Ranking] = []
    refereed = None
    for name in [*naming, *(["causal"] if "causal" in asked else [])]:
        named = causal.union([one.found for one in rankings])
        candidates = tuple(dict.fromkeys([*search.candidates, *named]))
        before, started = done[0], perf_counter()
        try:
            if name == "causal":
                refereed = causal.referee(search, candidates, seed=seed)
                found = causal.found(refereed, search.limit)
            else:
                found = FINDERS[name](search)
        except DataError as error:
            raise type(error)(f"Method {name}: {error}") from error
        rankings.append(Ranking(name, tuple(found), done[0] - before, perf_counter() - started))
    return Report(tuple(rankings), refereed)
