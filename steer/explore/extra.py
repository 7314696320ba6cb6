"""Whether the extra ``explore`` is installed; imports nothing heavy, so that it is told before a model is loaded."""

from importlib.util import find_spec

from steer.errors import MissingExtra


def check_installed() -> None:
    """See whether a session on a terminal can be had.

    Raises:
        MissingExtra: prompt_toolkit is not installed.
    """
    if find_spec("prompt_toolkit") is None:
        raise MissingExtra(
            "A session on a terminal needs the package prompt_toolkit: pip install 'saesteer[explore]'. Without it, "
            "commands can be piped in."
        )
