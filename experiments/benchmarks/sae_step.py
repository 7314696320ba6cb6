"""A training step of a top-k SAE beside the one product that cannot be avoided, SAELens' step, and plain autograd.

``python -m experiments.benchmarks.sae_step --json`` trains an SAE for some hundred steps on planted directions, then
times one step after another from those weights, on the same tensors, in turns. The floor is the encoder's product
alone: the fastest that torch offers for that shape, in float32 on a CPU and in bfloat16 on a GPU. Ratios are to the
floor of the same run. Where ``sae_lens`` or ``steer`` cannot be imported, what needs them is null, with a note.

On a GPU each contender is made, timed in turns with the floor, and dropped before the next, since all of them together
do not fit; ``proven`` is left out, which is ``exact`` there.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from experiments.benchmarks.contenders import Step, dense, floor_products, ours, saelens
from experiments.benchmarks.planted import embedded_batches, planted_batches, recalls, train
from saes.config import SAEConfig, Selection
from saes.step import Training

DEAD_SHARE = 0.01  # of the latents, for AuxK
WARM_ROUNDS = 2
GPU_STEPS = 5  # between two waits for the GPU: in training they follow each other without one
Clock = Callable[[], float]
Shape = tuple[int, int, int, int]  # d_in, d_sae, k, tokens of a batch
SHAPE: Shape = (512, 8192, 32, 2048)


def selections(device: torch.device) -> tuple[Selection, ...]:
    """Of our step, those that differ on a device."""
    every: tuple[Selection, ...] = get_args(Selection)
    return tuple(one for one in every if one != "proven") if device.type == "cuda" else every


def timed(run: Step, x: Tensor, clock: Clock) -> float:
    """Milliseconds of one step."""
    if not x.is_cuda:
        started = clock()
        run(x)
        return 1e3 * (clock() - started)
    torch.cuda.synchronize()
    started = clock()
    for _ in range(GPU_STEPS):
        run(x)
    torch.cuda.synchronize()
    return 1e3 * (clock() - started) / GPU_STEPS


def in_turns(
    steps: Mapping[str, Step], batches: list[Tensor], rounds: int, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Milliseconds of each step in each round; the first rounds, in which memory is gotten, do not count."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(WARM_ROUNDS + rounds):
        for name, run in steps.items():
            times[name].append(timed(run, batches[number % len(batches)], clock))
    return {name: found[WARM_ROUNDS:] for name, found in times.items()}


def peak_memory(steps: Mapping[str, Step], x: Tensor) -> dict[str, float]:
    """GPU memory of each step at its peak, beyond what was held before it, in MiB; nothing on a CPU."""
    found: dict[str, float] = {}
    if not x.is_cuda:
        return found
    for name, run in steps.items():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(x)
        torch.cuda.synchronize()
        found[name] = (torch.cuda.max_memory_allocated() - before) / 2**20
    return found


def floor_of(trained: Training, batches: list[Tensor], rounds: int, clock: Clock) -> tuple[str, Step]:
    """Name and function of the fastest product."""
    x = batches[0]
    products = floor_products(trained.sae, torch.bfloat16 if x.is_cuda else torch.float32)
    given = [x.bfloat16()] if x.is_cuda else batches
    times = in_turns(products, given, rounds, clock)
    name = min(times, key=lambda one: min(times[one]))
    return name, (lambda x: products[name](given[0])) if x.is_cuda else products[name]


Makers = dict[str, Callable[[], Step]]


def contenders(trained: Training, dead: Tensor, x: Tensor) -> Makers:
    """What makes each training step, by name."""
    makers: Makers = {f"ours_{one}": partial(ours, trained, dead, one) for one in selections(x.device)}
    return makers | {"saelens": partial(saelens, trained, dead, len(x)), "dense": partial(dense, trained, dead)}


def begun(makers: Makers, x: Tensor, notes: list[str]) -> dict[str, Step]:
    """The steps that can run here, each after a first one."""
    found: dict[str, Step] = {}
    for name, make in makers.items():
        try:
            run = make()
            run(x)
            found[name] = run
        except ImportError as error:
            notes.append(f"{name}: {error}")
        except torch.OutOfMemoryError:
            notes.append(f"{name}: does not fit into the GPU's memory")
            torch.cuda.empty_cache()
    return found


def compare(
    shape: Shape, device: torch.device, rounds: int, train_steps: int, clock: Clock = time.perf_counter
) -> dict[str, Any]:
    """Everything about one shape."""
    d_in, d_sae, k, tokens = shape
    stream = planted_batches(tokens, d_in, device)
    trained = train(SAEConfig(d_in, d_sae, k), stream, train_steps, "fast" if device.type == "cuda" else "exact")
    batches = [next(stream) for _ in range(4)]
    dead = trained.silent_tokens.argsort(descending=True, stable=True)[: max(1, int(DEAD_SHARE * d_sae))]
    notes: list[str] = []
    layout, product = floor_of(trained, batches, 5, clock)
    every = contenders(trained, dead, batches[0])
    together = [every] if device.type == "cpu" else [{name: make} for name, make in every.items()]
    times: dict[str, list[float]] = {"floor": []}
    to_floor: dict[str, dict[str, float]] = {}
    memory: dict[str, float] = {}
    for some in together:
        steps = {"floor": product} | begun(some, batches[0], notes)
        found = in_turns(steps, batches, rounds, clock)
        to_floor |= {name: ratios(ms, found["floor"]) for name, ms in found.items() if name != "floor"}
        times |= found | {"floor": times["floor"] + found["floor"]}
        memory |= peak_memory(steps, batches[0])
        del steps  # what a step holds goes before the next is made
    result: dict[str, Any] = {
        f"{name}_ms": {"min": min(ms), "median": statistics.median(ms)} for name, ms in times.items()
    } | {f"{name}_ms": None for name in every if name not in times}
    result["ratio_to_floor"] = to_floor
    result["times_faster_than_saelens"] = {
        name: min(times["saelens"]) / min(times[name])
        for name in times
        if name.startswith("ours") and "saelens" in times
    }
    result |= {"floor_layout": layout, "dead_latents": len(dead), "trained_steps": train_steps, "notes": notes}
    result["peak_memory_mib"] = memory or None
    result["recall"] = {"planted": recalls(trained, batches[-1])}
    return result


def ratios(found: list[float], floor: list[float]) -> dict[str, float]:
    """Of minima, and the median of those of each round."""
    paired = statistics.median(a / b for a, b in zip(found, floor, strict=True))
    return {"min": min(found) / min(floor), "median_of_rounds": paired}


def embedded_recall(notes: list[str]) -> dict[str, float] | None:
    """The same recall for an SAE on the embedded model's activations."""
    try:
        stream = embedded_batches(1024)
        trained = train(SAEConfig(128, 2048, 32), stream, 200)
    except ImportError as error:
        notes.append(f"embedded model: {error}")
        return None
    return recalls(trained, next(stream))


def growth(shape: Shape, device: torch.device, rounds: int, clock: Clock = time.perf_counter) -> list[dict[str, Any]]:
    """A step's time at a quarter, half and all of the batch, and of the latents."""
    d_in, d_sae, k, tokens = shape
    cases = [(d_in, d_sae, k, tokens // part) for part in (4, 2, 1)] + [(d_in, d_sae // p, k, tokens) for p in (4, 2)]
    found = []
    for case in cases:
        stream = planted_batches(case[3], d_in, device)
        trained = train(SAEConfig(*case[:3]), stream, 3)
        batches = [next(stream) for _ in range(2)]
        dead = torch.arange(max(1, int(DEAD_SHARE * case[1])), device=device)
        _, product = floor_of(trained, batches, 3, clock)
        times = in_turns(
            {"floor": product} | {f"ours_{one}": ours(trained, dead, one) for one in selections(device)},
            batches,
            rounds,
            clock,
        )
        size = {"d_in": d_in, "d_sae": case[1], "k": k, "batch": case[3]}
        found.append(size | {f"{name}_ms": min(one) for name, one in times.items()})
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default=",".join(map(str, SHAPE)), help="d_in,d_sae,k,batch")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--train-steps", type=int, default=200, help="steps of training before anything is measured")
    parser.add_argument("--sizes", action="store_true", help="also three sizes of the batch and of the latents")
    parser.add_argument("--busy", action="store_true", help="times of the processor, for a CPU that others use, too")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock = time.process_time if given.busy else time.perf_counter
    device = torch.device(given.device)
    d_in, d_sae, k, tokens = map(int, given.shape.split(","))
    shape = (d_in, d_sae, k, tokens)
    result = compare(shape, device, given.rounds, given.train_steps, clock)
    result["recall"]["embedded_model"] = embedded_recall(result["notes"])
    if given.sizes:
        result["sizes"] = growth(shape, device, given.rounds, clock)
    result |= {"shape": {"d_in": d_in, "d_sae": d_sae, "k": k, "batch": tokens}, "rounds": given.rounds}
    result["times"] = "of the processor" if given.busy else "by the clock"
    result |= {"device": device_name(device), "threads": given.threads, "versions": versions()}
    if given.json:
        print(json.dumps(result, indent=2))
        return
    floor = f"floor {result['floor_ms']['min']:.1f} ms ({result['floor_layout']})"
    print(f"{result['device']}, {given.threads} threads; {floor}")
    for name, ratio in result["ratio_to_floor"].items():
        ms = result[f"{name}_ms"]
        print(f"  {name:12s} {ms['min']:8.1f} ms (median {ms['median']:.1f}), {ratio['min']:.2f} x the floor")
    print("\n".join([f"  recall {name}: {found}" for name, found in result["recall"].items()] + result["notes"]))
    for size in result.get("sizes", []):
        print("  " + ", ".join(f"{name} {value:.5g}" for name, value in size.items()))


def device_name(device: torch.device) -> str:
    """What it was measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str | None]:
    """Of Python and what was timed."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("numpy", "sae-lens", "triton"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


if __name__ == "__main__":
    main()
