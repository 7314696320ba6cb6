"""``steer report``: draw the report of a folder again."""

import typer

from steer.cli.interrupts import importing
from steer.cli.options import Folder


def report(folder: Folder) -> None:
    """Write report.html and its figures from what is in a folder, also after an interrupted run."""
    with importing():
        from steer.cli.console import shown
        from steer.forks import available_cpus
        from steer.studies.report import write_report

    typer.echo(f"Report: {shown(write_report(folder, available_cpus()))}")
