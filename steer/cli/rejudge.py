"""``steer rejudge``: another judge on the completions of a run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from steer.cli.interrupts import importing
from steer.cli.judge_options import (
    AnswerTokens,
    Keep,
    Name,
    Offline,
    Question,
    Raw,
    Template,
    Timeout,
    Url,
    Verdicts,
    judge_given,
)
from steer.cli.notes import say
from steer.cli.options import Device, Dtype, DtypeName, Everything, Json


def rejudge(
    run: Annotated[Path, typer.Argument(help="Folder of `steer eval`.", metavar="DIR")],
    judge: Name = "rules",
    url: Url = None,
    question: Question = "three-class",
    judge_template: Template = None,
    judge_raw: Raw = False,
    verdict: Verdicts = None,
    judge_tokens: AnswerTokens = None,
    judge_timeout: Timeout = None,
    judgements: Keep = None,
    device: Device = "auto",
    dtype: Dtype = DtypeName.auto,
    offline: Offline = False,
    everything: Everything = False,
    as_json: Json = False,
) -> None:
    """Judge the completions of a run anew; the model does not answer again, and earlier scores stay."""
    given = locals()
    with importing():
        from rich.console import Console

        from steer.cli.console import Terminal
        from steer.cli.eval_shown import fitted_notes, results_table, unscored_notes
        from steer.evals.rejudge import rejudge as judged
    found = judged(run, judge_given(given), Terminal())
    for note in (*fitted_notes(found), *unscored_notes(found)):
        say(note)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    Console().print(results_table(found, everything))
