"""Remarks of commands that show no progress."""

import typer


def say(note: str) -> None:
    """Something that the user should know: on stderr, so that results can be piped."""
    typer.echo(f"note: {note}", err=True)
