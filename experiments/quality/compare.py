"""Our top-k SAE against SAELens' TopK at equal data, tokens, k and width: held-out FVU over seeds.

``python -m experiments.quality.compare --model embedded`` trains all on the same batches in the same order, seed by
seed, and measures them with the same code on the same held-out tokens. SAELens' SAE is its own training class in its
own trainer; it is written by its own method and read by ``saes.load``.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import saes
from saes import SAE, SAEConfig, TrainConfig
from saes.shapes import Float, Tensor
from steer.activations.sources.opened import open_source
from steer.activations.stream import activation_batches, activation_rows
from steer.activations.text import embedded_corpus
from steer.models.load import load_model
from steer.models.site import Site
from steer.quality.texts import first_texts

Batches = list[Float[Tensor, "token d_in"]]


@dataclass(frozen=True)
class Arm:
    """A trainer with its settings."""

    system: str
    lr: float | None
    """Peak learning rate; None: the system's own."""
    schedule: str = "ours"
    """``ours``: linear warm-up over 5 % and fall over 20 %, latents dead after a twentieth of the run; ``own``: what
    SAELens' trainer does unless told."""

    @property
    def name(self) -> str:
        """For the table."""
        parts = [self.system, "its own rate" if self.lr is None else f"lr {self.lr:g}"]
        parts += ["its own schedule"] if self.schedule == "own" else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Setup:
    """What all have in common."""

    d_in: int
    d_sae: int
    k: int
    tokens: int
    batch_tokens: int
    seed: int

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return self.tokens // self.batch_tokens

    def train_of(self, arm: Arm) -> TrainConfig:
        """Our settings for an arm."""
        return TrainConfig(self.tokens, self.batch_tokens, lr=arm.lr, seed=self.seed)


def train_ours(arm: Arm, setup: Setup, batches: Batches) -> SAE:
    """``saes.fit``."""
    return saes.fit(SAEConfig(setup.d_in, setup.d_sae, setup.k), batches, setup.train_of(arm))


def train_saelens(arm: Arm, setup: Setup, batches: Batches) -> SAE:
    """SAELens' TopKTrainingSAE in its SAETrainer, activations normalised as its documentation trains them."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(setup.seed)
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=setup.d_in, d_sae=setup.d_sae, k=setup.k, normalize_activations="expected_average_only_in"
        )
    )
    steps, train = setup.steps, setup.train_of(arm)
    settings: dict[str, Any] = {"lr": 3e-4 if arm.lr is None else arm.lr}  # its default, in all its configs
    if arm.schedule == "ours":
        settings["lr_warm_up_steps"] = round(train.warmup_frac * steps)
        settings["lr_decay_steps"] = round(train.decay_frac * steps)
        settings["dead_feature_window"] = train.dead_tokens // setup.batch_tokens  # it counts steps
    config = SAETrainerConfig(
        total_training_samples=steps * setup.batch_tokens,
        train_batch_size_samples=setup.batch_tokens,
        logger=LoggingConfig(log_to_wandb=False),
        lr_end=settings["lr"] / 10,  # as its runner sets it; a constant schedule does not use it
        **settings,
    )
    trainer = SAETrainer(config, sae, iter(batches))
    # from the same batches, since the trainer would take batches off the stream for it
    trainer.activation_scaler.estimate_scaling_factor(setup.d_in, iter(batches), n_batches_for_norm_estimate=steps)
    trained = trainer.fit()
    with tempfile.TemporaryDirectory() as folder:
        trained.save_inference_model(folder)
        return saes.load(folder)


TRAINERS = {"ours": train_ours, "SAELens": train_saelens}


def arms_of(rates: Sequence[float]) -> list[Arm]:
    """Each system with its own settings, then both at the same rates, schedule and counting of dead latents."""
    own = [Arm("ours", None), Arm("SAELens", None, "own")]
    return own + [Arm(system, rate) for rate in rates for system in TRAINERS]


def compare(given: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Train every arm with every seed; returns what is printed as JSON."""
    lm = load_model(given.model)
    site = Site((lm.n_layers - 1) // 2 if given.layer is None else given.layer)
    source = open_source(given.text or embedded_corpus())
    texts = first_texts(lm, source)
    held_out = first_texts(lm, source, given.held_out_tokens)
    training = texts[len(held_out) :]
    rows = list(activation_rows(lm, site, held_out))
    arms = arms_of(given.lr)
    runs = []
    for seed in range(given.seeds):
        setup = Setup(lm.d_model, given.d_sae, given.k, given.tokens, given.batch_tokens, seed)
        stream = activation_batches(lm, site, training, given.batch_tokens, seed)
        batches = list(islice(stream, setup.steps))
        for arm in arms:
            started = time.perf_counter()
            sae = TRAINERS[arm.system](arm, setup, batches)
            seconds = time.perf_counter() - started
            quality, _ = saes.measure(sae, rows)
            runs.append(
                {
                    "arm": arm.name,
                    "seed": seed,
                    "fvu": quality.fvu,
                    "l0": quality.l0,
                    "dead_fraction": quality.dead_fraction,
                    "cosine": quality.cosine,
                    "train_seconds": round(seconds, 1),
                }
            )
            console.print(f"seed {seed}  {arm.name:<44} FVU {quality.fvu:.4f}  {seconds:.0f} s")
    return {
        "model": Path(given.model).parent.name if Path(given.model).name == "hf" else Path(given.model).name,
        "site": str(site),
        "text": Path(source.name).name,
        "settings": {name: getattr(given, name) for name in ("d_sae", "k", "tokens", "batch_tokens", "lr", "seeds")},
        "held_out_tokens": sum(map(len, rows)),
        "training_text_tokens": sum(map(len, training)),
        "arms": [summary(arm, runs) for arm in arms],
        "runs": runs,
        "versions": {name: version(name) for name in ("torch", "sae-lens", "saesteer")},
    }


def summary(arm: Arm, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean, spread and range over the seeds."""
    own = [run for run in runs if run["arm"] == arm.name]
    fvus = [run["fvu"] for run in own]
    return {
        **asdict(arm),
        "name": arm.name,
        "fvu": statistics.mean(fvus),
        "fvu_sd": statistics.stdev(fvus) if len(fvus) > 1 else None,
        "fvu_range": [min(fvus), max(fvus)],
        "l0": statistics.mean(run["l0"] for run in own),
        "dead_fraction": statistics.mean(run["dead_fraction"] for run in own),
        "train_seconds": statistics.median(run["train_seconds"] for run in own),
    }


def table(results: dict[str, Any]) -> Table:
    """FVU of each arm."""
    settings = results["settings"]
    shown = Table(
        title="{model}, {site}: d_sae {d_sae}, k {k}, {tokens:,} tokens".format(**results, **settings), box=None
    )
    for name in ("", "FVU (sd over seeds)", "range", "L0", "dead", "seconds"):
        shown.add_column(name, justify="left" if not name else "right")
    for arm in results["arms"]:
        spread = "" if arm["fvu_sd"] is None else f" ({arm['fvu_sd']:.4f})"
        low, high = arm["fvu_range"]
        shown.add_row(
            arm["name"],
            f"{arm['fvu']:.4f}{spread}",
            f"{low:.4f}-{high:.4f}",
            f"{arm['l0']:.1f}",
            f"{arm['dead_fraction']:.1%}",
            f"{arm['train_seconds']:.0f}",
        )
    return shown


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="embedded", help="`embedded`, or a folder in transformers format")
    parser.add_argument("--text", help="text to train and measure on; else the embedded corpus")
    parser.add_argument("--layer", type=int, help="layer whose output is read; else the middle one")
    parser.add_argument("--d-sae", type=int, default=1024, help="latents")
    parser.add_argument("--k", type=int, default=16, help="latents active on a token")
    parser.add_argument("--tokens", type=int, default=300_000, help="tokens to train on")
    parser.add_argument("--batch-tokens", type=int, default=1024, help="tokens of a step")
    parser.add_argument("--held-out-tokens", type=int, default=10_000, help="tokens to measure on, not trained on")
    parser.add_argument("--lr", type=float, nargs="+", default=[3e-3, 6e-3], help="rates that both are trained with")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser.parse_args(given)


def main() -> None:
    """Run it from the command line."""
    given = arguments()
    console = Console(stderr=True, highlight=False)
    results = compare(given, console)
    if given.json:
        json.dump(results, sys.stdout, indent=1)
        print()
    else:
        Console(width=120).print(table(results))


if __name__ == "__main__":
    main()
