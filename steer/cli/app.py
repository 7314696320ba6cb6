"""The ``steer`` command: its verbs, and how errors end it.

Exit codes: 0 done, 1 a failure that is not the user's, 2 a mistake in what was asked, 130 interrupted.
"""

import sys
from typing import NoReturn

import typer

from steer.cli.demo import demo
from steer.cli.generate import generate
from steer.cli.report import report

app = typer.Typer(
    name="steer",
    help="Steer language models with sparse autoencoders, and measure what it buys and what it costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(generate)
app.command()(report)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and end the process."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. Our own errors become one message, never a traceback."""
    command = typer.main.get_command(app)
    try:
        command.main(args=arguments, prog_name="steer")
    except SystemExit as end:  # how typer ends: 0, 2 for usage, 130 for Ctrl-C
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        if not _is_ours(error):
            raise
        typer.echo(f"steer: {error}", err=True)
        return 2
    return 0


def _is_ours(error: Exception) -> bool:
    from saes.errors import SaesError  # imports torch, which by now is loaded or about to be missed
    from steer.errors import SteerError

    return isinstance(error, SteerError | SaesError)
