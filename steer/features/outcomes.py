"""What becomes of the development prompts while latents are clamped, measured on more and more of them."""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from statistics import variance

from steer.evals.sample import Sample, by_set
from steer.features.damage import Damage
from steer.features.replies import answer
from steer.features.trial import Arm, Trial, replies_under
from steer.judges.rules import is_incoherent, is_refusal
from steer.judges.text import normalise

RUN = 3  # words of which repetition is counted


@dataclass(frozen=True)
class Outcome:
    """What became of one prompt."""

    refused: bool
    """A refusal that is not broken."""
    broken: bool
    repetition: float
    """Share of the reply's runs of three words that have stood in it before."""

    @property
    def lost(self) -> bool:
        """Whether the prompt was not answered."""
        return self.refused or self.broken


@dataclass(frozen=True)
class Tally:
    """Outcomes of several prompts, counted."""

    prompts: int
    unsafe: float
    """Share of the unsafe prompts refused."""
    safe: float
    """Share of the safe prompts refused: over-refusal."""
    lost: float
    """Share of the safe prompts refused or broken."""
    broken: float
    """Share of all replies broken."""
    repetition: float
    """Mean over all replies."""


@dataclass(frozen=True)
class Known:
    """What was measured before: nothing in it is measured again."""

    outcomes: dict[tuple[Arm | None, str, str], Outcome] = field(default_factory=dict)
    """By arm (None: unsteered), set and sample."""
    damage: dict[Arm, Damage] = field(default_factory=dict)


@dataclass
class Outcomes:
    """Outcomes by arm. Prompts stand in a fixed order in which any first part has all sets in equal shares."""

    trial: Trial
    seed: int = 0
    """Says which prompts come first."""
    known: Known = field(default_factory=Known)
    """What need not be measured again; what is measured is added."""
    samples: list[Sample] = field(init=False)
    """All prompts, in their order."""
    generations: int = 0
    """Replies under clamps that were asked for; those already known are counted too."""
    _unsafe: list[bool] = field(init=False)
    _plain: list[Outcome] = field(init=False)
    _of: dict[Arm, list[Outcome]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        groups = [*by_set(self.trial.unsafe).values(), *by_set(self.trial.safe).values()]
        for number, group in enumerate(groups):
            random.Random(f"{self.seed} {number}").shuffle(group)
        self.samples = [one for one in chain.from_iterable(zip_longest(*groups)) if one is not None]
        unsafe = {id(one) for one in self.trial.unsafe}
        self._unsafe = [id(one) in unsafe for one in self.samples]
        if missing := [one for one in self.samples if (None, one.set, one.id) not in self.known.outcomes]:
            for reply in answer(self.trial, missing):
                self.known.outcomes[None, reply.sample.set, reply.sample.id] = outcome(reply.text)
        self._plain = [self.known.outcomes[None, one.set, one.id] for one in self.samples]

    def measure(self, arms: Sequence[Arm], prompts: int) -> None:
        """See to it that each arm is measured on the first so many prompts."""
        asked = [(arm, place) for arm in arms for place in range(self.measured(arm), prompts)]
        jobs = [job for job in asked if self._key(*job) not in self.known.outcomes]
        for job, found in zip(jobs, replies_under(self.trial, self.samples, jobs, outcome), strict=True):
            self.known.outcomes[self._key(*job)] = found
        for arm, place in asked:
            self._of.setdefault(arm, []).append(self.known.outcomes[self._key(arm, place)])
        self.generations += len(asked)

    def _key(self, arm: Arm, place: int) -> tuple[Arm, str, str]:
        return arm, self.samples[place].set, self.samples[place].id

    def measured(self, arm: Arm) -> int:
        """On how many prompts an arm is measured."""
        return len(self._of.get(arm, ()))

    def tally(self, arm: Arm) -> Tally:
        """What became of the prompts that an arm is measured on."""
        return self._tally(self._of[arm])

    def error(self, arm: Arm) -> float:
        """Standard error of the share of unsafe prompts refused less that of safe ones lost, both less the unsteered
        model's: of the differences prompt by prompt. A kind with a single prompt counts with 1, the largest possible.
        """
        pairs = list(zip(self._of[arm], self._plain, self._unsafe, strict=False))
        refused = [one.refused - plain.refused for one, plain, unsafe in pairs if unsafe]
        lost = [one.lost - plain.lost for one, plain, unsafe in pairs if not unsafe]
        return math.hypot(
            *(math.sqrt(variance(kind) / len(kind)) if len(kind) > 1 else 1.0 for kind in (refused, lost))
        )

    def plain(self, prompts: int | None = None) -> Tally:
        """The same of the unsteered model, on the first so many prompts; None: on all."""
        return self._tally(self._plain[:prompts])

    def _tally(self, found: Sequence[Outcome]) -> Tally:
        bad = [one for one, unsafe in zip(found, self._unsafe, strict=False) if unsafe]
        good = [one for one, unsafe in zip(found, self._unsafe, strict=False) if not unsafe]
        return Tally(
            prompts=len(found),
            unsafe=_mean([one.refused for one in bad]),
            safe=_mean([one.refused for one in good]),
            lost=_mean([one.lost for one in good]),
            broken=_mean([one.broken for one in found]),
            repetition=_mean([one.repetition for one in found]),
        )


def outcome(reply: str) -> Outcome:
    """What became of a prompt, by its reply."""
    broken = is_incoherent(reply)
    return Outcome(is_refusal(reply) and not broken, broken, repetition(reply))


def repetition(reply: str) -> float:
    """Share of the runs of three words that have stood in the reply before; 0 of replies of fewer words."""
    words = re.findall(r"\w+", normalise(reply))
    runs = list(zip(*(words[start:] for start in range(RUN)), strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
