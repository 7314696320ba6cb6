"""``steer compare``: runs on the same samples, against the first."""

import json
from pathlib import Path
from typing import Annotated

import typer

from steer.cli.interrupts import importing
from steer.cli.options import Everything, Json


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of `steer eval`; the first is compared with.", metavar="DIR DIR...")
    ],
    judge: Annotated[
        str | None,
        typer.Option(
            help="By the verdicts of this judge, by whom `steer rejudge` has judged all runs; else each run's own.",
            show_default=False,
        ),
    ] = None,
    everything: Everything = False,
    as_json: Json = False,
) -> None:
    """Compare runs with the first, sample by sample: differences with intervals, and whether they can be luck.

    p is McNemar's exact test, or by exchanging the runs where figures are not counts or samples come in clusters; all
    p-values are corrected together (Holm). Only samples that both runs have scored count.
    """
    with importing():
        from rich.console import Console

        from steer.cli.eval_shown import compare_table
        from steer.cli.notes import say
        from steer.evals.compare import compare as compared
    found = compared(runs, judge or "")
    for note in found["notes"]:
        say(note)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    Console().print(compare_table(found, everything))
    if "dev" in {row["split"] for row in found["rows"]}:
        typer.echo("Figures on dev are for choosing: report those of test, once.", err=True)
