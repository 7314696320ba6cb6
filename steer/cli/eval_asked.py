"""Options of ``steer eval`` that say what is asked: of all tasks, over several turns, of what to abstain."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.notes import say
from steer.cli.options import DtypeName

if TYPE_CHECKING:
    from steer.evals.tasks.options import AttackOptions, SelectOptions

ASKED, TURNS, ABSTAIN = "What is asked", "Crescendo", "SELECT"
SPLITS = ("dev", "test")
PROMPTS = ("zero_shot", "question", "plain")

Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=2**62 - 1,
        help="Of SELECT's draw and replies (else 20240828), and of an attacker (else 0).",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class TasksAsked:
    """Which prompts of the tasks are asked, and how long replies may be.

    Raises:
        typer.BadParameter: there is no such split.
    """

    data: Annotated[
        Path | None,
        typer.Option(help="Folder of public sets, laid out as published.", rich_help_panel=ASKED, show_default=False),
    ] = None
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Samples a task, evenly over its groups.", rich_help_panel=ASKED, show_default=False),
    ] = None
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Limit of replies; else each task's.", rich_help_panel=ASKED, show_default=False),
    ] = None
    split: Annotated[
        str, typer.Option(help="Of the embedded model's sets: dev to choose on, test to report.", rich_help_panel=ASKED)
    ] = "test"

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise typer.BadParameter(f"--split is dev or test, got {self.split!r}")

    def options(self) -> dict[str, Any]:
        """As ``TaskOptions`` takes them."""
        return {"data": self.data, "split": self.split, "limit": self.limit, "max_new_tokens": self.max_new_tokens}


@dataclass(frozen=True)
class AttackAsked:
    """Who attacks over several turns, and what for."""

    attacks: Annotated[
        Path | None,
        typer.Option(help="Objectives and questions, .jsonl; else the embedded model's.", rich_help_panel=TURNS),
    ] = None
    attacker: Annotated[
        str | None,
        typer.Option(help="A model that writes the questions; else those of the file.", rich_help_panel=TURNS),
    ] = None
    rater: Annotated[
        str | None,
        typer.Option(help="A model that rates replies; else the judge of refusals.", rich_help_panel=TURNS),
    ] = None
    repeats: Annotated[int, typer.Option(min=1, help="Attempts for each objective.", rich_help_panel=TURNS)] = 1

    def options(self, seed: int | None, device: str, dtype: DtypeName, offline: bool) -> "AttackOptions":
        """As tasks take them; models that attack or rate are loaded.

        Raises:
            SteerError: such a model cannot be loaded.
        """
        from steer.evals.tasks.options import AttackOptions
        from steer.models.load import load_model
        from steer.responders.prompted import Unsteered

        models = {
            name: Unsteered(load_model(name, device, dtype.value, None, offline, note=say), name=name)
            for name in {self.attacker, self.rater}
            if name is not None
        }
        of = {None: None, **models}
        return AttackOptions(self.attacks, of[self.attacker], of[self.rater], self.repeats, seed or 0)


@dataclass(frozen=True)
class SelectAsked:
    """Of what a model is to abstain, and what it is asked about it.

    Raises:
        typer.BadParameter: there is no such prompt.
    """

    concept: Annotated[
        list[str] | None,
        typer.Option(help="What is to be abstained from; may be repeated; else each in turn.", rich_help_panel=ABSTAIN),
    ] = None
    prompt: Annotated[
        str,
        typer.Option(
            help="zero_shot: told to abstain; question or plain: for a model that does so by itself.",
            rich_help_panel=ABSTAIN,
        ),
    ] = "zero_shot"
    per_concept: Annotated[
        int | None,
        typer.Option(
            min=1, help="Questions about a concept, and of each draw; else all it has.", rich_help_panel=ABSTAIN
        ),
    ] = None
    every_question: Annotated[
        bool,
        typer.Option("--every-question", help="Draw none: as many of each other concept.", rich_help_panel=ABSTAIN),
    ] = False
    samplings: Annotated[
        int,
        typer.Option(
            min=0,
            max=1000,
            help="Replies to each question, sampled at temperature 0.6, top-p 0.9 (5 in the paper); 0: one greedy "
            "reply.",
            rich_help_panel=ABSTAIN,
        ),
    ] = 0

    def __post_init__(self) -> None:
        if self.prompt not in PROMPTS:
            raise typer.BadParameter(f"--prompt is {', '.join(PROMPTS[:-1])} or {PROMPTS[-1]}, got {self.prompt!r}")

    def options(self, seed: int | None) -> "SelectOptions":
        """As the task takes them; without ``seed`` that of the release."""
        from steer.evals.tasks.options import SelectOptions

        chosen: dict[str, Any] = {"prompt": self.prompt, "samplings": self.samplings}
        chosen |= {} if seed is None else {"seed": seed}
        return SelectOptions(
            tuple(self.concept or ()), questions=self.per_concept, sampled=not self.every_question, **chosen
        )
