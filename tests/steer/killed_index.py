"""Index builds that are killed and gone on with, in forks of one program.

``python -m tests.steer.killed_index FOLDER`` prints what is left of each as JSON.
"""

import hashlib
import json
import os
import signal
import sqlite3
import sys
from contextlib import nullcontext
from pathlib import Path

import torch

from steer.activations.sources.opened import open_source
from steer.index.build import build_index
from tests.conftest import random_sae, tiny_model
from tests.steer.index_data import SMALL, write_text

STEPS = (3, 5, 20)  # the first two while text is read, the last while the tables are computed


class Killing:
    """A progress that kills its process at its ``steps``-th advance."""

    def __init__(self, steps):
        self.left = steps

    def stage(self, title, total=None):
        return nullcontext()

    def advance(self, count=1, note=""):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

    def note(self, message):
        pass


def contents(folder: Path):
    """Hash of each file, and what the database says."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "meta.sqlite")
    found = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return found | {"words": list(sqlite3.connect(folder / "meta.sqlite").iterdump())}


def main(root: Path) -> None:
    torch.set_num_threads(1)
    lm, sae, source = tiny_model("llama"), random_sae(), open_source(write_text(root / "a.jsonl"))
    found = {}
    for steps in STEPS:
        folder = root / str(steps)
        child = os.fork()
        if child == 0:
            build_index(lm, sae, source, folder, SMALL, progress=Killing(steps))
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        chunks = len(list((folder / "building").glob("chunk-*")))
        shards = len(list((folder / "latents").glob("*")))
        found[steps] = {"ended": ended, "index": (folder / "index.json").exists(), "chunks": chunks, "shards": shards}
    build_index(lm, sae, source, root / "whole", SMALL)
    whole = contents(root / "whole")
    for steps in STEPS:
        build_index(lm, sae, source, root / str(steps), SMALL)
        found[steps]["same"] = contents(root / str(steps)) == whole
        found[steps]["left"] = (root / str(steps) / "building").exists()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
