"""The verbs of ``steer sae``."""

from steer.cli.options import NothingEmpty, group
from steer.cli.sae.convert import convert
from steer.cli.sae.evaluate import evaluate
from steer.cli.sae.pull import pull
from steer.cli.sae.push import push
from steer.cli.sae.show import show

sae = group(
    "sae",
    "Look at SAEs, measure them, convert them, and share them. A SOURCE is a path, hub:owner/name/folder, or "
    "saelens:release/id (a name in SAELens' list of pretrained SAEs).",
)
for verb in (show, convert, pull, push):
    sae.command(cls=NothingEmpty)(verb)
sae.command("eval", cls=NothingEmpty)(evaluate)
