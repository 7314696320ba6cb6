"""What a task is made with: where data is, how much of it, and who judges."""

from dataclasses import dataclass, field
from pathlib import Path

from steer.evals.select.prompts import Prompt
from steer.evals.sets import Split
from steer.judges.verdict import Judge
from steer.responders.responder import Responder


@dataclass(frozen=True)
class SelectOptions:
    """What SELECT asks."""

    concepts: tuple[str, ...] = ()
    """Names or ids of the concepts to abstain from, each asked about by itself; none: all."""
    prompt: Prompt = "zero_shot"
    """Whether the responder is told to abstain; ``plain`` or ``question`` for one that abstains by itself."""
    questions: int | None = None
    """Questions about each concept, and from all concepts of a relation; None: as many as it has (30, or 20)."""
    sampled: bool = True
    """Whether questions about others are drawn; else as many as that of each are asked."""
    seed: int = 20240828
    """Of the draw, and of sampled replies. The release's published commands have this number."""
    samplings: int = 0
    """Sampled replies to each question, at temperature 0.6 and top-p 0.9 (the release has 5 for prompts, 1 for what is
    steered or tuned); 0: one greedy reply."""


@dataclass(frozen=True)
class AttackOptions:
    """Who attacks over several turns, and what for."""

    file: Path | None = None
    """Objectives, with questions for a scripted attacker; None: those of the embedded model."""
    attacker: Responder | None = None
    """Writes the questions; None: they are those of the file."""
    rater: Responder | None = None
    """Rates how far a reply meets the objective; None: by the judge, where question or reply names what it is about."""
    repeats: int = 1
    """Attempts for each objective; they differ where the attacker samples."""
    seed: int = 0
    """Of the attacker's sampling."""


@dataclass(frozen=True)
class TaskOptions:
    """Options of all tasks; each uses those that mean something to it."""

    judge: Judge
    """Judges the replies of tasks that ask for a refusal."""
    data: Path | None = None
    """Folder of public sets, laid out as their authors publish them (see docs/evaluation.md)."""
    split: Split = "test"
    """Of the embedded model's sets: ``dev`` to choose on, ``test`` to report."""
    limit: int | None = None
    """Samples, the first of each group of the task (type, category, subject); None: all."""
    max_new_tokens: int | None = None
    """Limit of generated replies, in tokens; None: that of the task."""
    offline: bool = False
    """Whether the network is never used."""
    select: SelectOptions = field(default_factory=SelectOptions)
    attack: AttackOptions = field(default_factory=AttackOptions)
