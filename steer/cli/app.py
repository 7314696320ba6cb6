"""The ``steer`` command: its verbs, and how errors end it.

Exit codes: 0 done, 1 a failure that is not the user's, 2 a mistake in what was asked, 130 interrupted.
"""

import sys
from typing import NoReturn

import click
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
        code = command.main(args=arguments, prog_name="steer", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return fail("interrupted", 130)
    except BrokenPipeError:
        return 1
    except Exception as error:
        if _is_ours(error):
            return fail(str(error), 2)
        raise
    return code if isinstance(code, int) else 0


def fail(message: str, code: int) -> int:
    """Tell the user on stderr; returns the exit code."""
    click.echo(f"steer: {message}", err=True)
    return code


def _is_ours(error: Exception) -> bool:
    from saes.errors import SaesError  # imports torch, which by now is loaded or about to be missed
    from steer.errors import SteerError

    return isinstance(error, SteerError | SaesError)
