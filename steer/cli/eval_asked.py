"""Options of ``steer eval`` that say what is asked over several turns, and of what a model is to abstain."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.notes import say
from steer.cli.options import DtypeName

if TYPE_CHECKING:
    from steer.evals.tasks.options import AttackOptions, SelectOptions

TURNS, ABSTAIN = "Crescendo", "SELECT"
PROMPTS = ("zero_shot", "question", "plain")

Attacks = Annotated[
    Path | None,
    typer.Option(help="Objectives and questions, .jsonl; else the embedded model's.", rich_help_panel=TURNS),
]
Attacker = Annotated[
    str | None, typer.Option(help="A model that writes the questions; else those of the file.", rich_help_panel=TURNS)
]
Rater = Annotated[
    str | None, typer.Option(help="A model that rates replies; else the judge of refusals.", rich_help_panel=TURNS)
]
Repeats = Annotated[int, typer.Option(min=1, help="Attempts for each objective.", rich_help_panel=TURNS)]
ConceptNames = Annotated[
    list[str] | None,
    typer.Option(help="What is to be abstained from; may be repeated; else each in turn.", rich_help_panel=ABSTAIN),
]
Prompted = Annotated[
    str,
    typer.Option(
        help="zero_shot: told to abstain; question or plain: for a model that does so by itself.",
        rich_help_panel=ABSTAIN,
    ),
]
QuestionCount = Annotated[
    int | None,
    typer.Option(min=1, help="Questions about a concept, and of each draw; else all it has.", rich_help_panel=ABSTAIN),
]
Unsampled = Annotated[
    bool, typer.Option("--every-question", help="Draw none: as many of each other concept.", rich_help_panel=ABSTAIN)
]
Samplings = Annotated[
    int,
    typer.Option(
        min=0,
        max=1000,
        help="Replies to each question, sampled at temperature 0.6, top-p 0.9 (5 in the paper); 0: one greedy reply.",
        rich_help_panel=ABSTAIN,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=2**62 - 1,
        help="Of SELECT's draw and replies (else 20240828), and of an attacker (else 0).",
        show_default=False,
    ),
]


def select_options(
    concepts: list[str], prompt: str, questions: int | None, every: bool, seed: int | None, samplings: int
) -> "SelectOptions":
    """What SELECT asks; BadParameter where --prompt is none."""
    if prompt not in PROMPTS:
        raise typer.BadParameter(f"--prompt is {', '.join(PROMPTS[:-1])} or {PROMPTS[-1]}, got {prompt!r}")
    from steer.evals.tasks.options import SelectOptions

    chosen: dict[str, Any] = {"samplings": samplings} | ({} if seed is None else {"seed": seed})
    return SelectOptions(tuple(concepts), prompt, questions, not every, **chosen)  # type: ignore[arg-type]  # checked


def attack_options(
    file: Path | None,
    attacker: str | None,
    rater: str | None,
    repeats: int,
    seed: int | None,
    device: str,
    dtype: DtypeName,
    offline: bool,
) -> "AttackOptions":
    """Who attacks; models that attack or rate are loaded."""
    from steer.evals.tasks.options import AttackOptions
    from steer.models.load import load_model
    from steer.responders.prompted import Unsteered

    models = {
        name: Unsteered(load_model(name, device, dtype.value, None, offline, note=say), name=name)
        for name in {attacker, rater}
        if name is not None
    }
    of = {None: None, **models}
    return AttackOptions(file, of[attacker], of[rater], repeats, seed or 0)
