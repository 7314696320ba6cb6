"""The verbs of ``steer plan``."""

from steer.cli.options import NothingEmpty, group
from steer.cli.plan.export import export
from steer.cli.plan.import_ import import_
from steer.cli.plan.push import push
from steer.cli.plan.show import show
from steer.cli.plan.validate import validate

plan = group(
    "plan",
    "Look at steering plans, check and share them, and turn them into plain steering vectors and back.",
)
for verb in (show, validate, export, push):
    plan.command(cls=NothingEmpty)(verb)
plan.command("import", cls=NothingEmpty)(import_)
