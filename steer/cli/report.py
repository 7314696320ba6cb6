"""``steer report``: evaluations as a page; or the report of a demo's folder drawn again."""

from pathlib import Path
from typing import Annotated

import typer

from steer.cli.interrupts import importing


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of `steer eval`, compared with the first; or one of `steer demo`.", metavar="DIR..."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The page, of `steer eval`; else report.html in the first folder.", show_default=False),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Show the verdicts of this judge, by whom `steer rejudge` has judged all runs; else each run's own.",
            show_default=False,
        ),
    ] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            help="What `steer judge calibrate --json` printed, shown beside the judge; may be repeated.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a report as one page, with its figures and tables beside it.

    Of runs of `steer eval`: refusals against over-refusals and ability, every task, broken replies, differences from
    the first run, samples that flipped, settings. Figures of dev and of test are kept apart. Of a folder of `steer
    demo`: its report.html and figures, from what is there, also after an interrupted run.
    """
    with importing():
        from steer.cli.console import shown
        from steer.evals.run_folder import RUN
        from steer.files import is_file
        from steer.forks import available_cpus

    if len(folders) == 1 and not is_file(folders[0] / RUN):
        from steer.studies.report import write_report as of_demo

        for option, value in {"--out": out, "--judge": judge, "--calibration": calibration}.items():
            if value:
                raise typer.BadParameter(f"{folders[0]} has no {RUN}: {option} is for runs of `steer eval`")
        page = of_demo(folders[0], available_cpus())
    else:
        from steer.reports.report import write_report

        page = write_report(
            folders, out or folders[0] / "report.html", available_cpus(), judge or "", calibration or ()
        )
    typer.echo(f"Report: {shown(page)}")
