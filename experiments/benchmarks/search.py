"""What a search adds to the model's forward pass, on an index of random contents and true shape.

    python -m experiments.benchmarks.search --json

``prompt_extra_ms`` is what a search by prompt costs once the SAE's codes of its tokens are known: pooling, ranking,
fusing and writing the reasons, at 64 tokens of 64 active latents each; with a filter on a column besides.
``prompt_encode_ms`` is what comes before that and after the model's forward: a real encode of 64 tokens by a top-k SAE
of as many latents, which reads activations of width 768 and holds random weights, on one thread; its ``floor_ms`` is
the one matrix product in it, and ``processor_ms`` the time of the encode without waiting for others on the machine.
``by_ms`` sorts by a column. ``contrast_s`` are the statistics of 2 x 100 prompts of 200 tokens. The index is written
anew in a temporary folder unless ``--index`` names one.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from saes import SAE, SAEConfig
from steer.index.read import FeatureIndex
from steer.index.synthetic import synthetic_index
from steer.search.by_prompt import rank_fired
from steer.search.contrast import contrast
from steer.search.filters import allowed
from steer.search.firing import fired_tokens
from steer.search.fuse import fused
from steer.search.pooled import Fired, pooled
from steer.search.query import Query

LATENTS = 131_072
WIDTH = 768  # of the activations that the SAE reads
TOKENS = 64  # of the prompt
ACTIVE = 64  # latents on each token


def fired_at_random(generator: np.random.Generator, d_sae: int, tokens: int, active: int = ACTIVE) -> Fired:
    """What fires on a prompt of so many tokens, drawn."""
    latents = generator.integers(0, d_sae, tokens * active)
    return Fired(latents, generator.exponential(size=len(latents)), np.repeat(np.arange(tokens), active), tokens)


def prompt_extra_ms(index: FeatureIndex, repeats: int = 50, filters: tuple[str, ...] = ()) -> dict[str, float]:
    """Milliseconds from the SAE's codes of a prompt to its hits with their reasons: p50 and p99, the first call too."""
    generator = np.random.default_rng(0)
    prompts = [fired_at_random(generator, index.d_sae, TOKENS) for _ in range(repeats)]
    waiting = iter(prompts)

    def once() -> None:
        mask = allowed(filters, index.columns, lambda: np.flatnonzero(index.labelled()), index.d_sae)
        ranking = rank_fired(
            next(waiting), "max", index.columns, mask, 1_000, lambda place: index.renderer.text([place])
        )
        fused([ranking], {}, 20)

    return timed(once, repeats)


@torch.no_grad()
def prompt_encode_ms(d_sae: int, repeats: int = 10) -> dict[str, float]:
    """Milliseconds of a real encode of a prompt, in all, of the processor, and of its matrix product alone."""
    sae = SAE(SAEConfig(WIDTH, d_sae, ACTIVE, activation="topk")).requires_grad_(False)
    x = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fired_tokens(sae, x)
        found = timed(lambda: fired_tokens(sae, x), repeats)
        product = timed(lambda: x @ sae.W_enc, repeats)
        start = time.process_time()
        for _ in range(repeats):
            fired_tokens(sae, x)
        processor = 1e3 * (time.process_time() - start) / repeats
    finally:
        torch.set_num_threads(threads)
    return {**found, "floor_ms": product["p50"], "processor_ms": round(processor, 1)}


def timed(call: Callable[[], object], repeats: int) -> dict[str, float]:
    """p50 and p99 of a call, in milliseconds."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        found.append(1e3 * (time.perf_counter() - start))
    return {"p50": round(float(np.percentile(found, 50)), 3), "p99": round(float(np.percentile(found, 99)), 3)}


def contrast_s(d_sae: int, prompts: int = 100, tokens: int = 200) -> float:
    """Seconds of the statistics of two sets of so many prompts."""
    generator = np.random.default_rng(1)
    matrix = pooled([fired_at_random(generator, d_sae, tokens) for _ in range(2 * prompts)], d_sae, "max")
    start = time.perf_counter()
    contrast(matrix, np.arange(2 * prompts) < prompts)
    return round(time.perf_counter() - start, 2)


def measure(index: FeatureIndex) -> dict[str, object]:
    """All figures."""
    by = Query(by="density", filters=["density<0.01"])
    return {
        "d_sae": index.d_sae,
        "prompt_extra_ms": prompt_extra_ms(index),
        "prompt_encode_ms": prompt_encode_ms(index.d_sae),
        "prompt_filtered_ms": prompt_extra_ms(index, filters=("density<0.01",)),
        "by_ms": timed(lambda: index.search(by), 50),
        "contrast_s": contrast_s(index.d_sae),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--latents", type=int, default=LATENTS, help="of the index that is written")
    parser.add_argument("--index", type=Path, help="an index to measure on")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = asked.index or synthetic_index(Path(folder) / "index", asked.latents, examples=4, tokens=100_000)
        found = measure(FeatureIndex.open(path))
    if asked.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
