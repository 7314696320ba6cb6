"""The verbs of ``steer find``."""

from steer.cli.find.refusal import refusal
from steer.cli.options import NothingEmpty, group

find = group(
    "find",
    "Find the latents that carry a behaviour.",
)
find.command(cls=NothingEmpty)(refusal)


@find.callback()
def _group() -> None:
    """Find the latents that carry a behaviour."""  # with a callback, a group of one verb stays a group
