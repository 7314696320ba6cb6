"""How fast a feature index is: cards, sorts, words and directions at full size, and what a build costs.

    python -m experiments.benchmarks.index --json

A synthetic index of 131,072 latents is written, then read cold (its files dropped from the system's cache before each
query, where the system allows it) and warm. Times are milliseconds, ``{"p50", "p99"}``. ``build_overhead`` is the time
that a build takes beyond reading the same text and running the plain model on it, whole and with its logits, as a share
of the latter. It is that of an SAE behind the last layer; of earlier ones, whose builds leave the layers above out, it
is in ``build_overhead_by_site``, and below 0 where leaving out saves more than the index costs.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import saes
from experiments.benchmarks.search import prompt_extra_ms
from steer.activations.reading import by_length
from steer.activations.rows import Rules, token_rows
from steer.activations.sources.opened import open_source
from steer.activations.text import embedded_corpus
from steer.index.build import build_index
from steer.index.config import IndexConfig
from steer.index.layout import bytes_per_latent, index_bytes
from steer.index.read import FeatureIndex
from steer.index.synthetic import synthetic_index
from steer.models.load import load_model
from steer.models.model import LanguageModel
from steer.search.hits import SearchResult
from steer.search.query import Query
from steer.search.run import search


def measured(work: Callable[[int], object], repeats: int, before: Callable[[], None] | None = None) -> dict[str, float]:
    """Milliseconds of ``work(number)``, the middle and the 99th of 100."""
    times = []
    for number in range(repeats):
        if before is not None:
            before()
        started = time.perf_counter()
        work(number)
        times.append(1000 * (time.perf_counter() - started))
    return {"p50": round(statistics.median(times), 3), "p99": round(float(np.percentile(times, 99)), 3)}


def dropped(folder: Path) -> None:
    """Drop an index's files from the system's cache; mapped pages go when the map is opened anew."""
    for path in folder.rglob("*"):
        if path.is_file():
            number = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(number)


def queries(index: FeatureIndex, sae: saes.SAE) -> dict[str, Callable[[int], object]]:
    """What is timed, by name. A direction is sought in a session: from the third on the decoder is ready."""
    rng = np.random.default_rng(0)
    latents = rng.integers(0, index.d_sae, 10_000)
    asked = [" ".join(index.labels(int(one))[0].text.split()[:2]) for one in latents[:64]]  # words that there are
    directions = torch.randn(64, sae.W_dec.shape[1], generator=torch.Generator().manual_seed(0))

    def facet(number: int) -> SearchResult:
        return search(index, Query(by="max", filters=[f"0<density<1e-{1 + number % 3}"], limit=50))

    return {
        "card_ms": lambda number: index.card(int(latents[number])),
        "facet_ms": facet,
        "words_ms": lambda number: index.words(asked[number % 64], 20),
        "direction_ms": lambda number: search(index, Query(direction=directions[number % 64], limit=20), sae=sae),
    }


def plain_forward(lm: LanguageModel, config: IndexConfig) -> float:
    """Seconds to read the text of a build and run the model on it, whole, with its logits."""
    started, left = time.perf_counter(), config.tokens
    rows: list[list[int]] = []
    for row, _ in token_rows(lm, open_source(embedded_corpus()), Rules.of(config.policy, lm)):
        if left is not None and left <= 0:
            break
        rows.append(row.ids if left is None else row.ids[:left])
        left = None if left is None else left - len(row.ids)
    for first in range(0, len(rows), config.window_rows):
        window = rows[first : first + config.window_rows]
        for batch in by_length([len(ids) for ids in window], config.forward_tokens):
            lm.forward(lm.pad([window[i] for i in batch]))
    return time.perf_counter() - started


def build_overheads(folder: Path, tokens: int, repeats: int) -> dict[str, dict[str, float]]:
    """For a site behind each layer: a build against the plain forward, in turns; the middle of the ratios, less 1."""
    lm = load_model("embedded")
    config, found = IndexConfig(tokens=tokens), {}
    for layer in range(lm.n_layers):
        site, ratios, seconds = f"{layer}.resid_post", [], []
        sae = saes.SAE(saes.SAEConfig(lm.d_model, 1024, 16, model="embedded", site=site)).requires_grad_(False)
        for number in range(repeats):
            plain = plain_forward(lm, config)
            started = time.perf_counter()
            build_index(lm, sae, open_source(embedded_corpus()), folder / f"built-{layer}-{number}", config)
            seconds.append(time.perf_counter() - started)
            ratios.append(seconds[-1] / plain)
        found[site] = {"overhead": round(statistics.median(ratios) - 1, 3), "seconds": round(min(seconds), 2)}
    return found


@contextmanager
def working_folder(given: Path | None) -> Iterator[Path]:
    """The folder given, or one that is removed at the end."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def warm_ms(path: Path, sae: saes.SAE, repeats: int) -> dict[str, dict[str, float]]:
    """Each query on an open index."""
    index, found = FeatureIndex.open(path), {}
    for name, query in queries(index, sae).items():
        for number in range(2):
            query(number)
        found[name] = measured(query, repeats)
    return found | {"prompt_extra_ms": prompt_extra_ms(index)}


def cold_ms(path: Path, sae: saes.SAE, repeats: int) -> dict[str, dict[str, float]]:
    """Each query on files that are dropped before it, where the system allows that; decoders are in memory."""
    if not hasattr(os, "posix_fadvise"):
        return {}
    found = {}
    for name in ("card_ms", "facet_ms", "words_ms"):
        query = queries(FeatureIndex.open(path), sae)[name]
        found[name] = measured(query, repeats, lambda: dropped(path))
    return found


def benchmark(folder: Path, d_sae: int, tokens: int, d_model: int, repeats: int, build_tokens: int) -> dict[str, Any]:
    """All figures."""
    path = folder / f"synthetic-{d_sae}"
    started = time.perf_counter()
    if not (path / "index.json").exists():
        synthetic_index(path, d_sae, tokens=tokens)
    written = time.perf_counter() - started
    sae = saes.SAE(saes.SAEConfig(d_model, d_sae, 64)).requires_grad_(False)
    found: dict[str, Any] = {"d_sae": d_sae, "tokens": tokens, "d_model": d_model, "repeats": repeats}
    found |= warm_ms(path, sae, repeats)  # first: the files are in the system's cache, as written
    found["cold"] = cold_ms(path, sae, min(repeats, 20))
    info = FeatureIndex.open(path).info
    found["write_seconds"] = round(written, 1)
    found["bytes"] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    found["bytes_per_latent"] = bytes_per_latent(info.sizes)
    found["bytes_by_formula"] = index_bytes(info.sizes, tokens, info.vocabulary)
    overheads = build_overheads(folder, build_tokens, 3)
    *_, last = overheads.values()
    found["build_overhead"], found["build_seconds"] = last["overhead"], last["seconds"]
    found["build_overhead_by_site"] = {site: one["overhead"] for site, one in overheads.items()}
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--d-sae", type=int, default=131_072)
    parser.add_argument("--tokens", type=int, default=10_000_000, help="of the synthetic corpus")
    parser.add_argument("--d-model", type=int, default=2304, help="width of the decoder that directions are sought in")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--build-tokens", type=int, default=50_000)
    parser.add_argument("--folder", type=Path, help="keep the indexes here; else in a folder that is removed")
    asked = parser.parse_args()
    with working_folder(asked.folder) as folder:
        found = benchmark(folder, asked.d_sae, asked.tokens, asked.d_model, asked.repeats, asked.build_tokens)
    if asked.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:18} {value}")


if __name__ == "__main__":
    main()
