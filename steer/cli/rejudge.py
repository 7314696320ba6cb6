"""``steer rejudge``: another judge on the completions of a run."""

from pathlib import Path
from typing import Annotated

import typer

from steer.cli.interrupts import importing
from steer.cli.judge_options import JudgeAsked, Name, Offline, judge_from
from steer.cli.option_groups import with_groups
from steer.cli.options import Device, Dtype, DtypeName, Everything, Json


@with_groups
def rejudge(
    run: Annotated[Path, typer.Argument(help="Folder of `steer eval`.", metavar="DIR")],
    *,
    judge: Name = "rules",
    judge_asked: JudgeAsked,
    device: Device = "auto",
    dtype: Dtype = DtypeName.auto,
    offline: Offline = False,
    everything: Everything = False,
    as_json: Json = False,
) -> None:
    """Judge the completions of a run anew; the model does not answer again, and earlier scores stay."""
    with importing():
        from steer.cli.console import Terminal
        from steer.cli.eval_shown import tell
        from steer.evals.rejudge import rejudge as judged
    found = judged(run, judge_from(judge, judge_asked, device, dtype, offline), Terminal())
    tell(found, everything, as_json)
