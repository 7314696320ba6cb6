"""``steer train`` killed, interrupted and gone on with, by the command line, in forks of one program.

``python -m tests.steer.killed_training FOLDER`` prints what is left of each run as JSON.
"""

import contextlib
import hashlib
import io
import json
import os
import resource
import signal
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import torch

from steer.cli.app import run
from steer.training.config import TrainingConfig
from steer.training.estimate import estimate
from tests.steer.training_data import SMALL, small, write_model, write_text

LONG = {"total_tokens": 32 * 120, "ahead": 2, "save_every_steps": 7, "d_sae": "64,48"}
BATCHES = {
    "batch_tokens": 512,
    "total_tokens": 512 * 3,
    "ring_tokens": 4096,
    "repeat": True,
    "dead_after_tokens": 100_000,
}
LARGE = {
    "topk": {"d_sae": 16_384, "k": 4, **BATCHES},
    "bfloat16": {"d_sae": 16_384, "k": 4, "compute_dtype": "bfloat16", "optimiser": "adam_bf16", **BATCHES},
    "relu": {"d_sae": 8192, "k": None, "activation": "relu", **BATCHES},
}
"""Runs whose SAEs take most of the memory."""


def forked(work, until=None, signalled=signal.SIGKILL):
    """Run in a fork, signalled when ``until`` says so; its exit code, minus the signal if that ended it; its stderr."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 99
        try:
            code = work()
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    os.close(write)
    if until is not None:
        while not until() and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.003)
        os.kill(child, signalled)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def reached(folder: Path, lines: int) -> bool:
    log = folder / "log.jsonl"
    return log.exists() and log.read_bytes().count(b"\n") >= lines


def outcome(folder: Path):
    """What must be the same: the trained SAEs, and the log but for its times."""
    times = {"seconds", "tokens_per_second", "memory_mib"}
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    files = sorted(folder.glob("sae-*/*"))
    return {
        "files": {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        "log": [{key: value for key, value in line.items() if key not in times} for line in log],
    }


def memory(model: Path, text: Path, root: Path, kind: str) -> tuple[int, int]:
    """Bytes by which training raises the peak of the process, and those that are estimated."""
    result = root / f"{kind}.json"

    def measured() -> int:
        run(small(model, text, root / "warm", total_tokens=64))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        code = run(small(model, text, root / kind, **LARGE[kind]))
        result.write_text(str(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)))
        return code

    def estimated() -> int:
        given = {"model": str(model), "text": str(text), "out": str(root / "none"), **SMALL, **LARGE[kind]}
        (root / f"{kind}-estimated.json").write_text(str(estimate(TrainingConfig(**given)).bytes))
        return 0

    for work in (measured, estimated):  # both in forks: what this process once held would hide what they take
        code, said = forked(work)
        assert code == 0, said
    return int(result.read_text()), int((root / f"{kind}-estimated.json").read_text())


def main(root: Path) -> None:
    torch.set_num_threads(1)
    model, text = write_model(root / "model"), write_text(root / "a.jsonl", 100)
    found = {"kills": []}

    def command(folder: Path):
        return lambda: run(small(model, text, folder, **LONG))

    with contextlib.redirect_stdout(io.StringIO()):
        assert forked(command(root / "whole"))[0] == 0
        for wanted in (1, 25):
            folder = root / f"killed-{wanted}"
            for more in (0, 12):  # the continuation is killed, too
                code, _ = forked(command(folder), partial(reached, folder, wanted + more))
                found["kills"].append(code)
            assert forked(command(folder))[0] == 0
            found[folder.name] = outcome(folder) == outcome(root / "whole")
        folder = root / "told"
        found["told to end"] = forked(command(folder), partial(reached, folder, 5), signal.SIGTERM)
        assert len(list((folder / "checkpoints").glob("step-*/manifest.json"))) >= 1
        folder = root / "interrupted"
        found["interrupted"] = forked(command(folder), partial(reached, folder, 5), signal.SIGINT)
        found["saved"] = len(list((folder / "checkpoints").glob("step-*/manifest.json")))
        found["unfinished"] = not (folder / "sae-d64").exists()
        assert forked(command(folder))[0] == 0
        found["continued"] = outcome(folder) == outcome(root / "whole")
        found["lines"] = len(outcome(root / "whole")["log"])
        found["memory"] = {kind: memory(model, text, root, kind) for kind in LARGE}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
