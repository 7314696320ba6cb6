"""Which method of the finder names the latent that carries refusal best, and what that costs.

``python -m experiments.features.compare SAE`` asks each method alone, lets the referee compare all latents that were
named by the whole grid of strengths and prompts, and asks how often successive halving finds the grid's winner: once
for each order of the prompts, on the grid's own outcomes. Seconds are those of the processor, on one core.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from rich.console import Console
from rich.table import Table

import saes
from steer.activations.text import embedded_corpus, read_texts
from steer.cli.find.shown import curve_data
from steer.features import causal
from steer.features.dev import divided, embedded_dev
from steer.features.finders import FINDERS
from steer.features.halving import FIRST
from steer.features.outcomes import Known
from steer.features.search import Found, Search, without_refusals
from steer.features.trial import Trial
from steer.models.load import load_model
from steer.steering.latents import site_of
from steer.threads import torch_threads


@dataclass(frozen=True)
class Named:
    """What one method named by itself, and what it took."""

    method: str
    found: list[Found]
    generations: int
    seconds: float


def measured(sae: str, limit: int, prompts: int, max_new_tokens: int, orders: int, say: Console) -> dict[str, Any]:
    """Everything, as JSON data."""
    search = prepared(sae, limit, prompts, max_new_tokens)
    named = []
    for method in causal.NAMING:
        named.append(alone(search, method))
        say.print(f"{method}: {named[-1].generations:,} replies, {named[-1].seconds:.1f} s")
    candidates = causal.union([one.found for one in named])
    known = Known()
    started = time.process_time()
    grid = causal.referee(search, candidates, first=1.0, known=known)
    grid_seconds = time.process_time() - started
    say.print(f"grid: {len(candidates)} latents, {grid.generations:,} replies, {grid_seconds:.1f} s")
    fresh, started = replace(search), time.process_time()
    halved = causal.referee(fresh, candidates)
    halved_seconds = time.process_time() - started
    winner = grid.curves[0].latent
    winners, replies = again(search, candidates, known, orders)
    place = {one.latent: rank for rank, one in enumerate(grid.curves, start=1)}
    return {
        "sae": sae,
        "candidates": len(candidates),
        "prompts": len(search.trial.samples),
        "strengths": list(search.strengths),
        "residual_norm": search.norm,
        "max_new_tokens": max_new_tokens,
        "plain": asdict(grid.plain),
        "methods": [row(one, winner, place) for one in named],
        "grid": {"winner": winner, "generations": grid.generations, "seconds": grid_seconds},
        "halving": {
            "first": FIRST,
            "winner": halved.curves[0].latent,
            "generations": halved.generations,
            "seconds": halved_seconds,
            "orders": orders,
            "winners": dict(winners),
            "mean_generations": replies,
        },
        "curves": [curve_data(one) for one in grid.curves],
    }


def prepared(sae: str, limit: int, prompts: int, max_new_tokens: int) -> Search:
    """The embedded model with an SAE on it, its development prompts and neutral texts."""
    lm, loaded = load_model("embedded"), saes.load(sae)
    own = divided(embedded_dev(), prompts)
    texts = without_refusals(lm, list(islice(read_texts(embedded_corpus(), lm), 256)))[:24]
    trial = Trial(lm, loaded, site_of(loaded, None), own.unsafe, own.safe, max_new_tokens, 256)
    return Search(trial, own.harmful, own.harmless, texts, limit=limit)


def alone(search: Search, method: str) -> Named:
    """One method, with nothing made before it."""
    made = [0]

    def count(replies: int) -> None:
        made[0] += replies

    fresh = replace(search, trial=replace(search.trial, on_done=count))
    started = time.process_time()
    found = FINDERS[method](fresh)
    return Named(method, found, made[0], time.process_time() - started)


def again(search: Search, candidates: Sequence[int], known: Known, orders: int) -> tuple[Counter[int], float]:
    """Winners of halving over several orders of the prompts, on known outcomes; and the mean number of replies."""
    found, replies = Counter[int](), 0
    for seed in range(orders):
        refereed = causal.referee(search, candidates, seed=seed, known=known)
        found[refereed.curves[0].latent] += 1
        replies += refereed.generations
    return found, replies / max(1, orders)


def row(named: Named, winner: int, place: dict[int, int]) -> dict[str, Any]:
    """Where a method has the winner, and how good its own first latent is."""
    latents = [one.latent for one in named.found]
    return {
        "method": named.method,
        "rank_of_winner": latents.index(winner) + 1 if winner in latents else None,
        "first": latents[0],
        "causal_rank_of_first": place[latents[0]],
        "best_causal_rank": min(place[latent] for latent in latents),
        "generations": named.generations,
        "seconds": named.seconds,
        "latents": latents,
    }


def main() -> None:
    """Ask, measure, show."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sae")
    parser.add_argument("--limit", type=int, default=10, help="latents that each method names")
    parser.add_argument("--prompts", type=int, default=12, help="prompts of each set that latents are clamped on")
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--orders", type=int, default=20, help="orders of the prompts that halving is tried on")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    say = Console(stderr=True)
    with torch_threads(None, 1):
        found = measured(asked.sae, asked.limit, asked.prompts, asked.max_new_tokens, asked.orders, say)
    if asked.json:
        json.dump(found, sys.stdout, indent=1)
        return
    table = Table("method", "rank of the winner", "its first latent", "that one's causal rank", "replies", "seconds")
    for one in found["methods"]:
        cells = ("method", "rank_of_winner", "first", "causal_rank_of_first", "generations")
        table.add_row(*(str(one[cell]) for cell in cells), f"{one['seconds']:.1f}")
    Console().print(table)
    Console().print({name: found[name] for name in ("plain", "grid", "halving")})


if __name__ == "__main__":
    main()
