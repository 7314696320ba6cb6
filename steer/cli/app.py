"""The ``steer`` command, and how errors end it. Imports nothing heavy, so that Ctrl-C is seen to from the start.

Exit codes: 0 done, 1 a failure that is not the user's, 2 a mistake in what was asked, 130 interrupted.
"""

import sys
from typing import NoReturn

from steer.cli.interrupts import INTERRUPTED, importing
from steer.errors import SteerError


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and end the process."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. Our own errors become one message, never a traceback."""
    try:
        with importing():
            import typer

            from steer.cli.commands import app
        typer.main.get_command(app).main(args=arguments, prog_name="steer")
    except SystemExit as end:  # how typer ends: 0, 2 for usage, 130 for Ctrl-C
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:  # outside of what typer watches
        return INTERRUPTED
    except Exception as error:
        if not _is_ours(error):
            raise
        typer.echo(f"steer: {error}", err=True)
        return 2
    return 0


def _is_ours(error: Exception) -> bool:
    """Whether we raised it on purpose. ``saes.errors`` is not imported here: that would import torch."""
    saes_errors = sys.modules.get("saes.errors")
    ours = (SteerError, saes_errors.SaesError) if saes_errors else (SteerError,)
    return isinstance(error, ours)
