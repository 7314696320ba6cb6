"""Training steps of all kinds of SAE, and with all optimisers, beside the encoder's product alone.

``python -m experiments.benchmarks.sae_kinds --json`` times one step of each after another, in turns, on planted
directions, with 1% of the latents dead where there is AuxK. Times are those of the processor (``--wall``: of the
clock), so that with one thread a program beside it costs its share of the caches and no more.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor

from experiments.benchmarks.contenders import LR, Step, floor_products
from experiments.benchmarks.planted import planted_batches
from experiments.benchmarks.sae_step import DEAD_SHARE, SHAPE, Clock, Shape, device_name, in_turns, ratios, versions
from saes.config import OptimiserName, SAEConfig, TrainConfig
from saes.kernels import kernels_for
from saes.sae import SAE
from saes.step import Training, step

KINDS: dict[str, Callable[[int, int, int], SAEConfig]] = {
    "topk": lambda d_in, d_sae, k: SAEConfig(d_in, d_sae, k),
    "batch_topk": lambda d_in, d_sae, k: SAEConfig(d_in, d_sae, k, activation="batch_topk"),
    "matryoshka topk": lambda d_in, d_sae, k: SAEConfig(d_in, d_sae, k, prefixes=(d_sae // 16, d_sae // 4, d_sae)),
    "matryoshka batch_topk": lambda d_in, d_sae, k: SAEConfig(
        d_in, d_sae, k, activation="batch_topk", prefixes=(d_sae // 16, d_sae // 4, d_sae)
    ),
    "jumprelu": lambda d_in, d_sae, k: SAEConfig(d_in, d_sae, activation="jumprelu"),
    "relu": lambda d_in, d_sae, k: SAEConfig(d_in, d_sae, activation="relu"),
}


def stepping(config: SAEConfig, optimiser: OptimiserName, batches: list[Tensor], warm_steps: int) -> Step:
    """A step of an SAE that has been trained for some."""
    x = batches[0]
    settings = TrainConfig(10**9, len(x), optimiser=optimiser, dead_after_tokens=10**9)
    training = Training(SAE(config).to(x.device), settings)
    training.sae.b_dec.data.copy_(x.mean(0))
    dead = torch.arange(max(1, int(DEAD_SHARE * config.d_sae)), device=x.device)

    def run(x: Tensor) -> None:
        training.silent_tokens[dead] = 2 * 10**9
        assert step(training, x, LR).loss < float("inf")

    for number in range(warm_steps):
        run(batches[number % len(batches)])
    return run


def compare(shape: Shape, rounds: int, warm_steps: int, only: list[str], clock: Clock) -> dict[str, Any]:
    """Milliseconds of each, and ratios to the floor."""
    d_in, d_sae, k, tokens = shape
    stream = planted_batches(tokens, d_in, torch.device("cpu"))
    batches = [next(stream) for _ in range(4)]
    products = floor_products(SAE(SAEConfig(d_in, d_sae, k)), torch.float32)
    steps = {f"floor, {name}": run for name, run in products.items()}
    for name, made in KINDS.items():
        steps[name] = stepping(made(d_in, d_sae, k), "adam", batches, warm_steps)
    for optimiser in get_args(OptimiserName)[1:]:
        steps[f"topk, {optimiser}"] = stepping(SAEConfig(d_in, d_sae, k), optimiser, batches, warm_steps)
    steps = {name: run for name, run in steps.items() if not only or name.startswith("floor") or name in only}
    times = in_turns(steps, batches, rounds, clock)
    floor = min((times[f"floor, {name}"] for name in products), key=min)
    return {
        name: {"min_ms": min(found), "median_ms": statistics.median(found), "ratio_to_floor": ratios(found, floor)}
        for name, found in times.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--warm-steps", type=int, default=4, help="steps of training before anything is measured")
    parser.add_argument("--only", nargs="*", default=[], help="names of those to measure")
    parser.add_argument("--wall", action="store_true", help="times by the clock on the wall")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock = time.perf_counter if given.wall else time.process_time
    found = compare(SHAPE, given.rounds, given.warm_steps, given.only, clock)
    kernels = kernels_for(torch.device("cpu")).__name__
    told = {"device": device_name(torch.device("cpu")), "threads": given.threads, "kernels": kernels}
    if given.json:
        print(json.dumps({"steps": found, **told, "versions": versions()}, indent=2))
        return
    print(told)
    for name, one in found.items():
        ratio = one["ratio_to_floor"]
        print(f"  {name:28s} {one['min_ms']:8.1f} ms, {ratio['min']:.2f} x the floor ({ratio['median_of_rounds']:.2f})")


if __name__ == "__main__":
    main()
