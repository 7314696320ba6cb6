"""The ``steer`` command, and how errors end it. Imports nothing heavy, so that Ctrl-C is seen to from the start.

Exit codes: 0 done, 1 a failure that is not the user's, 2 a mistake in what was asked, 130 interrupted, 143 ended by
SIGTERM. Of several processes that torchrun has started, all have the same exit code, and the first tells what all
would.
"""

import errno
import os
import sys
from collections.abc import Mapping
from io import TextIOWrapper
from typing import NoReturn

from steer.cli.interrupts import INTERRUPTED, TERMINATED, TermSignals, importing
from steer.errors import SteerError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and end the process."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. Our own errors become one message, never a traceback."""
    with TermSignals(os.environ) as signals:
        try:
            code = _run(arguments)
            if sys.stdout is not None:  # closed by whoever started us
                sys.stdout.flush()
        except OSError as error:
            if error.errno not in _FULL:
                raise
            os.write(2, f"steer: what is printed cannot be written ({error.strerror}).\n".encode())
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else it is tried again when the process ends
            code = 1
    return TERMINATED if signals.came and code == INTERRUPTED else code


def _run(arguments: list[str] | None) -> int:
    first = is_first(os.environ)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without stars shows question marks
    try:
        with importing():
            import typer

            from steer.cli.commands import app
        code = typer.main.get_command(app).main(args=arguments, prog_name="steer", standalone_mode=first)
    except SystemExit as end:  # how typer ends: 0, 2 for usage, 130 for Ctrl-C
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:  # outside of what typer watches
        return INTERRUPTED
    except Exception as error:
        if not first and isinstance(used_wrongly := getattr(error, "exit_code", None), int):
            return used_wrongly  # every process has the same command line, and typer tells what is wrong in the first
        if not _is_ours(error):
            raise
        if first or not _first_tells(error):
            told = str(error).encode(errors="backslashreplace").decode()  # names of files need be no text
            typer.echo(f"steer: {told}", err=True)
        return 2
    return code if isinstance(code, int) else 0  # of the processes that are not the first: how else typer ends


def is_first(env: Mapping[str, str]) -> bool:
    """Whether this process is the first of those that torchrun has started, or is alone."""
    return "WORLD_SIZE" not in env or env.get("RANK", "0") in ("", "0")


def _is_ours(error: Exception) -> bool:
    """Whether we raised it on purpose. ``saes.errors`` is not imported here: that would import torch."""
    saes_errors = sys.modules.get("saes.errors")
    ours = (SteerError, saes_errors.SaesError) if saes_errors else (SteerError,)
    return isinstance(error, ours)


def _first_tells(error: Exception) -> bool:
    """Whether the first process tells the same: all have raised it, or it is of the settings, which all have."""
    saes_errors = sys.modules.get("saes.errors")
    return saes_errors is not None and (saes_errors.by_all(error) or isinstance(error, saes_errors.ConfigError))
