"""All that is to be measured on a GPU, in one command of less than ten minutes.

``python -m experiments.benchmarks.gpu_checks --out gpu.json`` needs torch, numpy, safetensors, einops, triton and a C
compiler. In turn: every output of every kernel against autograd; whether steps wait for the GPU; the training step at
two shapes beside the encoder's product and plain autograd; the shuffle ring, where it can be imported. The file is
written anew after each part, so that what was measured is kept whatever comes. Exits with 1 if a check fails.

``--tiny`` rehearses all of it at small sizes, also on a CPU (``--device cpu``), and with ``TRITON_INTERPRET=1
SAES_KERNELS=triton`` with the kernels in Triton.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.kernel_checks import Size, checks
from experiments.benchmarks.planted import planted_batches, train
from experiments.benchmarks.sae_step import Shape, compare, device_name, versions
from saes.config import SAEConfig
from saes.step import step

SIZES = (Size(512, 768, 6144, 32), Size(300, 1000, 5001, 64))  # of the checks; the second fits no block
TINY_SIZES = (Size(6, 10, 30, 3),)
SHAPES: tuple[Shape, ...] = ((3072, 24576, 32, 8192), (4096, 131072, 64, 8192))
TINY_SHAPES: tuple[Shape, ...] = ((6, 16, 2, 4), (8, 24, 3, 4))
RING_TOKENS, RING_WIDTH, RING_BATCH = 262_144, 4096, 8192


def kernel_checks(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Errors of all outputs, and the names of those beyond their limit."""
    found = [
        dataclasses.asdict(one) | {"good": one.good, "size": dataclasses.asdict(size)}
        for size in (TINY_SIZES if tiny else SIZES)
        for one in checks(device, size)
    ]
    return {"outputs": found, "failed": [one["name"] for one in found if not one["good"]]}


def waits(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Steps between two looks with torch told to refuse whatever waits for the GPU."""
    d_in, d_sae, k, tokens = TINY_SHAPES[0] if tiny else (768, 6144, 32, 2048)
    stream = planted_batches(tokens, d_in, device)
    training = train(SAEConfig(d_in, d_sae, k), stream, 1 if tiny else 30, "fast")
    training.silent_tokens[::10] = 10**9
    assert training.most_dead, "AuxK has latents to revive"
    training.look_every = 10**6
    batches = [next(stream) for _ in range(2 if tiny else 20)]
    step(training, batches[0], 1e-4)
    before = training.steps_done
    refused = None
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        for x in batches:
            step(training, x, 1e-4)
    except RuntimeError as error:
        refused = str(error).splitlines()[0]
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    return {"steps": training.steps_done - before, "seen_by_torch": device.type == "cuda", "refused": refused}


def planned_gib(shape: Shape) -> dict[str, float]:
    """Memory by arithmetic: what is held while plain autograd, the largest contender, makes a step."""
    d_in, d_sae, _, tokens = shape
    weights, pre = 2 * d_in * d_sae * 4, tokens * d_sae * 4
    parts = {
        "the SAE that all start from: weights, Adam, gradients, pre-activations": 4 * weights + pre / 2,
        "floor: the encoder in bfloat16, twice, and its product": weights / 2 + pre / 2,
        "autograd: weights, gradients, Adam and its temporaries": 6 * weights,
        "autograd: pre-activations, latents, AuxK's, and their gradients": 10 * pre,
    }
    found = {name: size / 2**30 for name, size in parts.items()}
    return found | {"together": sum(found.values())}


def ring(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Tokens/s of the shuffle ring on the device, in bfloat16: as many are served and put as it holds."""
    try:
        from steer.activations.ring import ShuffleRing
    except ImportError as error:
        return {"note": str(error)}
    tokens, width, batch = (64, 8, 8) if tiny else (RING_TOKENS, RING_WIDTH, RING_BATCH)
    made = ShuffleRing(tokens, 1, width, torch.bfloat16, device)
    rows = torch.randn(1, batch, width, device=device).bfloat16()
    for _ in range(tokens // batch):
        made.put(rows)
    seconds = 0.0
    for number in range(1 + tokens // batch):
        _wait(device)
        started = time.perf_counter()
        made.serve(batch)
        made.put(rows)
        _wait(device)
        seconds += (time.perf_counter() - started) * (number > 0)
    return {"tokens": tokens, "width": width, "batch": batch, "tokens_per_second": tokens // batch * batch / seconds}


def main() -> None:
    """Measure, write, and say what failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--out", type=Path, default=Path("gpu_checks.json"), help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each step")
    parser.add_argument("--train-steps", type=int, default=100, help="steps of training before steps are timed")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs")
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "torch finds no GPU here. Pass --device cpu --tiny to rehearse without one.\n")
    torch.set_num_threads(1 if device.type == "cpu" else torch.get_num_threads())
    found: dict[str, Any] = {"device": device_name(device), "tiny": given.tiny, "versions": versions()}
    found["kernels"] = os.environ.get("SAES_KERNELS") or "chosen by the device"
    begun = time.perf_counter()

    def keep(name: str, made: Any) -> None:
        found[name] = made
        found["seconds"] = time.perf_counter() - begun
        temporary = given.out.with_name(f".{given.out.name}.tmp")
        temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, given.out)
        print(f"{found['seconds']:.0f} s: {name}", file=sys.stderr)

    keep("checks", kernel_checks(device, given.tiny))
    keep("waits", waits(device, given.tiny))
    for shape in TINY_SHAPES if given.tiny else SHAPES:
        name = "step {} to {}, k {}, batch {}".format(*shape)
        keep(name, {"planned_gib": planned_gib(shape)} | compare(shape, device, given.rounds, given.train_steps))
    keep("ring", ring(device, given.tiny))
    failed = found["checks"]["failed"] + [found["waits"]["refused"]] * bool(found["waits"]["refused"])
    print("\n".join(f"failed: {one}" for one in failed) or f"All checks hold. {given.out}")
    raise SystemExit(bool(failed))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
