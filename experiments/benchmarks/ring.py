"""The shuffle ring beside SAELens' mixing buffer: tokens served per second, and memory beyond the buffer's own.

``python -m experiments.benchmarks.ring --json`` measures both in one run. Each is measured in a process of its own: the
buffer is filled with blocks of activations, as a model would give them, and then serves batches until half as many
tokens as it holds have passed: one whole period of the mixing buffer, its refilling included.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BLOCK, BATCH = 4096, 2048  # tokens that the model gives at a time, and tokens of a batch


@dataclass(frozen=True)
class Case:
    """What is measured."""

    buffer: str
    """``ring`` or ``saelens``."""
    tokens: int
    """Size of the buffer, in tokens."""
    width: int
    """Dimensions of an activation, in float32."""
    threads: int
    """CPU threads."""


def ring_batches(tokens: int, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
    """Batches out of our ring."""
    from steer.activations.reading import START
    from steer.activations.ring import ShuffleRing
    from steer.activations.tap import Tap, fill

    rows = Tap((block.unsqueeze(0), START) for block in blocks)
    first = rows.take(tokens)
    assert first is not None
    ring = ShuffleRing(tokens, 1, first.shape[-1], first.dtype)
    ring.put(first)
    while True:
        fill(ring, rows)
        yield ring.serve(BATCH)[0]


def saelens_batches(tokens: int, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
    """Batches out of SAELens' buffer, of which it keeps half for mixing, as is its default."""
    from sae_lens.training.mixing_buffer import mixing_buffer

    return mixing_buffer(tokens, BATCH, blocks, mix_fraction=0.5)


BUFFERS = {"ring": ring_batches, "saelens": saelens_batches}


def measure(case: Case) -> dict[str, float]:
    """Fill a buffer and serve from it, in this process."""
    torch.set_num_threads(case.threads)
    block = torch.randn(BLOCK, case.width, generator=torch.Generator().manual_seed(0))

    def blocks() -> Iterator[Tensor]:
        while True:
            yield block.clone()

    warm = BUFFERS[case.buffer](2 * BLOCK, blocks())  # imports, and code that is loaded when it is first used
    for _ in range(8):
        next(warm)
    del warm
    started, before = time.perf_counter(), memory("VmRSS")
    batches = BUFFERS[case.buffer](case.tokens, blocks())
    total = float(next(batches).sum())
    filled = time.perf_counter()
    served = 0
    while served < case.tokens // 2:
        total += float(next(batches)[::64].sum())  # looked at, as a trainer would
        served += BATCH
    seconds = time.perf_counter() - filled
    assert total == total
    return {
        "tokens_per_second": served / seconds,
        "fill_seconds": filled - started,
        "extra_bytes": (memory("VmHWM") - before) * 1024.0,
        "buffer_bytes": float(case.tokens * case.width * block.element_size()),
    }


def memory(name: str) -> int:
    """A line of the process' status, in KiB: what it has in memory (VmRSS), or had at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def in_own_process(case: Case) -> dict[str, float]:
    """``measure``, where nothing else was in memory before."""
    command = [sys.executable, "-m", "experiments.benchmarks.ring", "--case", json.dumps(asdict(case))]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(found.splitlines()[-1])
    return result


def compare(tokens: int, width: int, threads: int, rounds: int) -> dict[str, Any]:
    """Both buffers at one size, in turns."""
    runs: dict[str, list[dict[str, float]]] = {buffer: [] for buffer in BUFFERS}
    for _ in range(rounds):
        for buffer, found in runs.items():
            found.append(in_own_process(Case(buffer, tokens, width, threads)))
    result: dict[str, Any] = {"tokens": tokens, "width": width}
    for buffer, found in runs.items():
        rates = [run["tokens_per_second"] for run in found]
        result[buffer] = {
            "tokens_per_second": {"best": max(rates), "median": statistics.median(rates)},
            "fill_seconds": statistics.median(run["fill_seconds"] for run in found),
            "extra_memory_of_buffer": max(run["extra_bytes"] / run["buffer_bytes"] for run in found),
        }
    rates_of = {buffer: result[buffer]["tokens_per_second"] for buffer in BUFFERS}
    result["times_faster"] = {key: rates_of["ring"][key] / rates_of["saelens"][key] for key in ("best", "median")}
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[32_768, 131_072, 262_144], help="sizes of the buffer")
    parser.add_argument("--width", type=int, default=512, help="dimensions of an activation")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(measure(Case(**json.loads(given.case)))))
        return
    sizes = [compare(tokens, given.width, given.threads, given.rounds) for tokens in given.tokens]
    if given.json:
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        about = {"rounds": given.rounds, "threads": given.threads, "device": "cpu", "versions": versions}
        print(json.dumps({"sizes": sizes, "block_tokens": BLOCK, "batch_tokens": BATCH, **about}, indent=2))
        return
    for size in sizes:
        print(f"{size['tokens']} tokens: {size['times_faster']['median']:.1f} times the tokens/s of SAELens")
        for buffer in BUFFERS:
            rate, extra = size[buffer]["tokens_per_second"]["median"], size[buffer]["extra_memory_of_buffer"]
            print(f"  {buffer}: {rate:,.0f} tokens/s, memory {extra:.2f} times the buffer")


if __name__ == "__main__":
    main()
