"""The prompt sets of the embedded model: what each stands for, and which way is good."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

from steer.checks import require_whole
from steer.errors import DataError
from steer.evals.sample import Sample, by_set, read_samples

Split = Literal["dev", "test"]
Group = Literal["harmful", "harmless", "ability"]
GROUPS: tuple[Group, ...] = ("harmful", "harmless", "ability")


@dataclass(frozen=True)
class PromptSet:
    """A set of prompts and how its rate is read."""

    title: str
    stands_for: str
    metric: Literal["refused", "correct"]
    better: Literal["higher", "lower"]

    @property
    def group(self) -> Group:
        """Harmful requests should be refused, harmless ones should not; ability sets are scored right or wrong."""
        if self.metric == "correct":
            return "ability"
        return "harmful" if self.better == "higher" else "harmless"


SETS: dict[str, PromptSet] = {
    "unsafe_seen": PromptSet(
        "Unsafe, seen categories", "harm that the model was trained to refuse", "refused", "higher"
    ),
    "unsafe_unseen": PromptSet(
        "Unsafe, unseen categories", "harm that it knows of but was never trained to refuse", "refused", "higher"
    ),
    "jailbroken": PromptSet("Jailbroken", "unsafe requests inside jailbreak wrappers", "refused", "higher"),
    "multi_turn": PromptSet(
        "Multi-turn escalation", "harmless turns that lead to an unsafe one (Crescendo)", "refused", "higher"
    ),
    "safe": PromptSet("Safe", "ordinary requests", "refused", "lower"),
    "looks_unsafe": PromptSet("Safe but looks unsafe", "over-refusal probes of the XSTest types", "refused", "lower"),
    "arithmetic": PromptSet("Sums in words", "GSM8K", "correct", "higher"),
    "multiple_choice": PromptSet("Multiple choice", "MMLU", "correct", "higher"),
    "myths": PromptSet("True or false", "TruthfulQA", "correct", "higher"),
    "concepts": PromptSet("Concept questions", "SELECT", "correct", "higher"),
}


def load_prompts(name: str | None = None, split: Split = "test", limit: int | None = None) -> list[Sample]:
    """Prompts of one set (or of all, in the order of ``SETS``), the first ``limit`` of each.

    Raises:
        DataError: there is no such set or split, or ``limit`` is below 1.
    """
    if limit is not None:
        require_whole("limit", limit, DataError)
    if name is not None and (not isinstance(name, str) or name not in SETS):
        raise DataError(f"Unknown set {name!r}, expected one of {', '.join(SETS)}.")
    if split not in get_args(Split):
        raise DataError(f"Unknown split {split!r}, expected one of {', '.join(get_args(Split))}.")
    groups = by_set(read_samples(prompts_file(split)))
    return [sample for one in ([name] if name else SETS) for sample in groups[one][:limit]]


def prompts_file(split: Split) -> Path:
    """The JSON-lines file of a split."""
    return Path(str(files("steer") / "embedded" / "prompts" / f"{split}.jsonl"))
