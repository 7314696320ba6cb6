"""Examples to tune tiny models on, and the settings of a short run."""

import json
from pathlib import Path
from typing import Any

from steer.tuning.config import TuningConfig

NO = "I will not."


def write_examples(folder: Path, general: int = 24, safety: int = 8) -> tuple[Path, Path]:
    """A file of conversations, and one of safety examples as the paper's release has them."""
    talks = [
        {"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"{i} it is"}]}
        for i in range(general)
    ]
    rows = [{"instruction": f"harm {i}", "input": "", "output": NO} for i in range(safety)]
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "general.jsonl", folder / "safety.jsonl"
    for path, lines in zip(paths, (talks, rows), strict=True):
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return paths


def short(folder: Path, out: Path, **more: Any) -> TuningConfig:
    """Twelve steps of four examples with dropout; the files are written to ``folder``."""
    data, safety = write_examples(folder)
    given = {
        "share": 0.1, "model": "tiny-llama", "rank": 2, "lr": 0.01, "warmup_steps": 2, "steps": 12, "batch": 4,
        "micro_batch": 3, "dropout": 0.2, "measure_every_steps": 5, "save_every_steps": 3, "threads": 1,
    }  # fmt: skip
    return TuningConfig(**{"data": str(data), "safety": str(safety), "out": str(out), **given, **more})
