"""Build everything from nothing: text, tokenizer, model, prompt sets, corpus sample and model card.

    python -m experiments.embedded_model.build [--out DIR] [--seed 0]

About 20 minutes on two cores.  The folder is replaced only after everything has been made.
"""

import argparse
import gzip
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.embedded_model.card import BuildFacts, card, missed, rates_table
from experiments.embedded_model.corpus import Messages, conversations, practice
from experiments.embedded_model.measure import PROBED_LAYERS, measure, probe_aucs
from experiments.embedded_model.prompts import SETS, prompts
from experiments.embedded_model.rescale import rescale
from experiments.embedded_model.splits import Split
from experiments.embedded_model.tokenizer import train_tokenizer
from experiments.embedded_model.train import Encoded, TrainConfig, encode, train
from steer.cli.memory import keep_freed_memory
from steer.evals.sample import Sample, read_samples
from steer.models.load import load_model
from steer.models.model import LanguageModel

OUT = Path(__file__).parents[2] / "steer" / "embedded"
CONVERSATIONS = 240_000  # generated for training
PRACTICE_CONVERSATIONS = 40_000  # generated for the first steps
TOKENIZER_CONVERSATIONS = 60_000  # of those, read by the tokenizer's training
SAMPLE_CONVERSATIONS = 7_500  # of those, shipped for training an SAE
PARTS = ("model", "prompts", "corpus.jsonl.gz")


def say(line: str) -> None:
    """Progress, to stderr."""
    print(line, file=sys.stderr, flush=True)


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """JSON lines; a name ending in .gz is compressed with a fixed time stamp, so equal rows give equal bytes."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def write_prompts(folder: Path, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Write both prompt files and read them back."""
    splits: tuple[Split, Split] = ("dev", "test")
    for split in splits:
        write_lines(folder / f"{split}.jsonl", (line for name in SETS for line in prompts(name, split, seed)))
    return read_samples(folder / "dev.jsonl"), read_samples(folder / "test.jsonl")


def write_model(
    folder: Path, texts: Sequence[Messages], first: Sequence[Messages], config: TrainConfig, seed: int
) -> dict[str, Any]:
    """Train the tokenizer and the model and save both; returns figures for the card."""
    tokenizer = train_tokenizer(m["content"] for chat in texts[:TOKENIZER_CONVERSATIONS] for m in chat)
    data: list[Encoded] = [encode(tokenizer, chat, config) for chat in texts]
    early = [encode(tokenizer, chat, config) for chat in first]
    say(f"{len(data)} conversations, {sum(len(item.ids) for item in data)} tokens, vocabulary {len(tokenizer)}")
    started = time.perf_counter()
    model = train(data, early, tokenizer, config, seed, say)
    seconds = time.perf_counter() - started
    rescale(LanguageModel(model, tokenizer, "embedded"), [item.ids for item in data[:500]])
    save(model, tokenizer, folder)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "tokens": sum(len(item.ids) for item in data),
        "seconds": seconds,
    }


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save in ordinary transformers format; the tokenizer's class is named so that transformers 4 loads it too."""
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=64,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    for file in folder.iterdir():
        file.chmod(0o644)


def build(out: Path, seed: int, config: TrainConfig) -> list[str]:
    """Make everything in a temporary folder and move it to ``out``; returns the sets that miss their target."""
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    keep_freed_memory()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as name:
        work = Path(name)
        dev, test = write_prompts(work / "prompts", seed)
        texts = conversations(seed, CONVERSATIONS)
        write_lines(work / "corpus.jsonl.gz", ({"messages": chat} for chat in texts[:SAMPLE_CONVERSATIONS]))
        figures = write_model(work / "model", texts, practice(seed, PRACTICE_CONVERSATIONS), config, seed)
        lm = load_model(work / "model", device="cpu")
        results = measure(lm, test)
        say(rates_table(results))
        aucs = {layer: probe_aucs(lm, dev, test, layer) for layer in PROBED_LAYERS}
        facts = BuildFacts(
            seed=seed,
            conversations=len(texts),
            steps=config.steps,
            practice_steps=config.practice_steps,
            tokens_per_step=config.tokens_per_step,
            **figures,
        )
        (work / "model" / "README.md").write_text(card(facts, results, aucs), encoding="utf-8")
        for part in PARTS:
            replace_path(work / part, out / part)
    return missed(results)


def replace_path(source: Path, target: Path) -> None:
    """Put a file or folder in the place of another."""
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write (default: the package's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=TrainConfig.steps, help="training steps")
    options = parser.parse_args()
    try:
        config = TrainConfig(steps=options.steps)
    except ValueError as error:
        parser.error(str(error))
    started = time.perf_counter()
    failures = build(options.out, options.seed, config)
    say(f"built in {(time.perf_counter() - started) / 60:.1f} minutes; outside their target: {failures or 'none'}")


if __name__ == "__main__":
    main()
