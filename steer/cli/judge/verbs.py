"""The verbs of ``steer judge``."""

from steer.cli.judge.calibrate import calibrate
from steer.cli.judge.label import label
from steer.cli.options import NothingEmpty, group

judge = group(
    "judge",
    "Measure judges of replies against the labels of people, and label replies of a run.",
)
for verb in (calibrate, label):
    judge.command(cls=NothingEmpty)(verb)
