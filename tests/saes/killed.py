"""Trains with a run folder, killed at many moments, and says whether the weights are those of an uninterrupted run.

Run as a program, every training is a fork of it, so that torch is imported once: ``python -m tests.saes.killed FOLDER
STRIDE`` kills at each STRIDE-th call of the system that makes, moves or removes a file.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

import saes

STEPS, TOKENS = 14, 32
CONFIGS = [
    saes.SAEConfig(8, 24, 3, activation="batch_topk", prefixes=(8, 24), site="a"),
    saes.SAEConfig(8, 16, activation="jumprelu", site="a", site_out="b", skip=True, subtract_b_dec=False),
]
TRAINS = [
    saes.TrainConfig(
        TOKENS * STEPS,
        TOKENS,
        lr=1e-2,
        k_start=6,
        dead_after_tokens=64,
        multi_topk_weight=1 / 8,
        optimiser="adam_8bit",
    ),
    saes.TrainConfig(TOKENS * (STEPS - 3), TOKENS, lr=1e-2, optimiser="adam_bf16", measure_every_steps=2),
]


class Stream:
    """Batches at two sites, from torch's global generator and one of its own, with a state of tensors and JSON data."""

    def __init__(self) -> None:
        torch.manual_seed(11)
        self.generator, self.given = torch.Generator().manual_seed(5), 0

    def __iter__(self):
        return self

    def __next__(self):
        self.given += 1
        x = torch.randn(TOKENS, 8, generator=self.generator) + torch.randn(8) / 4
        return {"a": x, "b": x.flip(-1) * self.given**0.5}

    def state(self):
        return {"given": self.given, "parts": [{"generator": self.generator.get_state()}, None]}

    def restore(self, state):
        self.given = state["given"]
        self.generator.set_state(state["parts"][0]["generator"])


def train(folder: Path) -> None:
    stream = Stream()
    saes.fit(CONFIGS, stream, TRAINS, run=saes.RunConfig(folder, save_every_steps=3))
    assert stream.given == STEPS


def counted_kill(moment: int) -> None:
    """Kill this process at the given call of the system that a checkpoint is made of."""
    calls = 0

    def counting(call):
        def counted(*given, **named):
            nonlocal calls
            calls += 1
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given, **named)

        return counted

    for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir"):
        setattr(os, name, counting(getattr(os, name)))


def forked(folder: Path, moment: int | None = None, seconds: float | None = None) -> bool:
    """Train in a fork; whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            os.fsync = lambda _: None  # which a kill of the process, unlike one of the machine, leaves without effect
            if moment is not None:
                counted_kill(moment)
            train(folder)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    if os.WEXITSTATUS(status):
        raise SystemExit(f"a run failed: moment {moment}, {seconds} s")
    return False


def outcome(folder: Path) -> dict:
    """What must be the same: digests of the weights, and the log but for its times."""
    files = sorted(folder.glob("sae-*/sae.safetensors"))
    times = {"seconds", "tokens_per_second", "memory_mib"}
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {
        "weights": {str(one.relative_to(folder)): hashlib.sha256(one.read_bytes()).hexdigest() for one in files},
        "log": [{key: value for key, value in line.items() if key not in times} for line in lines],
        "left": sorted(path.name for path in (folder / "checkpoints").iterdir()),
    }


def main(root: Path, stride: int) -> None:
    torch.set_num_threads(1)
    train(root / "whole")
    wanted = outcome(root / "whole")
    killed = 0
    for moment in range(1, 1000, stride):
        folder = root / f"at-{moment}"
        if not forked(folder, moment):
            break
        killed += 1
        again = forked(folder, moment + 3)  # the continuation is killed, too, if it comes so far
        killed += again
        assert not again or not forked(folder)
        assert outcome(folder) == wanted, f"killed at call {moment}"
        shutil.rmtree(folder)
    for number in range(0, 12, stride // 2 + 1):
        folder = root / f"after-{number}"
        killed += forked(folder, seconds=0.01 * (number + 1))
        assert not forked(folder)
        assert outcome(folder) == wanted, f"killed after {10 * (number + 1)} ms"
        shutil.rmtree(folder)
    sys.stdout.write(json.dumps({"killed": killed, **wanted}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
