"""The verbs of ``steer index``."""

from steer.cli.index.build import build
from steer.cli.index.explain import explain
from steer.cli.index.info import info
from steer.cli.index.labels import export_labels, import_labels
from steer.cli.index.verify import verify
from steer.cli.options import NothingEmpty, group

index = group(
    "index",
    "Build an index of what an SAE's latents do on a text, check it, and bring labels in and out.",
)
for verb in (build, verify, info, explain):
    index.command(cls=NothingEmpty)(verb)
index.command("import-labels", cls=NothingEmpty)(import_labels)
index.command("export-labels", cls=NothingEmpty)(export_labels)
