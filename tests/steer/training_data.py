"""A tiny model and a text on disk, and the command line that trains on them."""

from pathlib import Path
from typing import Any

import torch

from steer.models.model import LanguageModel
from tests.conftest import tiny_model
from tests.steer.activation_data import write_lines

WORDS = ("river", "stone", "a", "green", "of", "bird", "seven", "light", "under", "was", "they", "cold")
SMALL = {
    "site": "1.resid_post",
    "d_sae": "64",
    "k": "4",
    "total_tokens": 32 * 20,
    "batch_tokens": 32,
    "ring_tokens": 96,
    "forward_tokens": 400,
    "ahead": 0,
    "lr": 0.01,
    "measure_every_steps": 4,
    "save_every_steps": 5,
    "threads": 1,
}
"""Options of a run of twenty steps."""


def sentences(count: int) -> list[str]:
    """Different texts."""
    draw = torch.Generator().manual_seed(1)
    pick = torch.randint(len(WORDS), (count, 8), generator=draw).tolist()
    return [" ".join(WORDS[i] for i in row) for row in pick]


def write_model(folder: Path, lm: LanguageModel | None = None) -> Path:
    """A model in transformers format."""
    lm = lm or tiny_model("llama")
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


def write_text(path: Path, count: int = 60) -> Path:
    """A JSON-lines file of about fifty tokens a line."""
    write_lines(path, [{"text": text} for text in sentences(count)])
    return path


def options(**given: Any) -> list[str]:
    """``d_sae=64`` as ``--d-sae 64``; True as a flag; None: left out."""
    found = []
    for name, value in given.items():
        if value is not None:
            found += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return found


def small(model: Path, text: Path, out: Path, **more: Any) -> list[str]:
    """The command line of a small run."""
    return ["train", *options(model=model, text=text, out=out, **{**SMALL, **more})]
