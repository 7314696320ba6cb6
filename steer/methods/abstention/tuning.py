"""Abstaining by tuning: on questions with refusals (SFT), and by preferring refusals to answers (DPO)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from saes.seeds import derived
from steer.checks import require_finite, require_whole
from steer.errors import DataError
from steer.files import write_text
from steer.methods.abstention.concepts import Abstaining, Concept, drawn, own_answers
from steer.models.model import LanguageModel
from steer.progress import Progress
from steer.responders.tuned import Tuned
from steer.tuning.config import TuningConfig
from steer.tuning.job import tune
from steer.tuning.prefer import prefer
from steer.tuning.preference_config import PreferenceConfig

REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I cannot answer that.",
    "I'm not able to answer questions about this.",
    "I must decline to answer.",
    "I won't answer that.",
)
"""Texts that abstain, of our own: those of the release are not known. Give those that the model says by itself."""
RELEASED_LAYERS = ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj")
"""Layers that the release tunes, as Llama's are named."""
SUPERVISED: Mapping[str, Any] = {
    "rank": 32, "alpha": 32.0, "dropout": 0.0, "target": RELEASED_LAYERS, "lr": 5e-5, "weight_decay": 0.01,
    "epochs": 10.0, "batch": 32, "micro_batch": 16, "warmup_steps": 0,
}  # fmt: skip
"""Settings of the release, where ``TuningConfig`` has them; its learning rate falls along a cosine, ours linearly."""
SEED_SHIFT = 2024  # of the preferences' questions, in the release


@dataclass(frozen=True)
class Amounts:
    """How many examples are made of questions.

    Raises:
        DataError: a number that cannot be.
    """

    answered: float
    """Questions to answer for each question to abstain from."""
    refusals: int
    """Refusals for each question to abstain from, all different."""
    rejected: int = 0
    """Refusals for each question to answer, where they are the reply that is rejected."""
    below: float = 1.0
    """Questions about descendants for each question about a target, at most."""
    answer_tokens: int = 64
    """Length limit of the model's own answers."""

    def __post_init__(self) -> None:
        require_finite("answered", self.answered, DataError)
        require_finite("below", self.below, DataError)
        require_whole("refusals", self.refusals, DataError)
        require_whole("answer_tokens", self.answer_tokens, DataError)
        require_whole("rejected", self.rejected, DataError, least=0)


SUPERVISED_AMOUNTS = Amounts(answered=5.0, refusals=5)
PREFERRED_AMOUNTS = Amounts(answered=2.0, refusals=2, rejected=3)


def supervised(
    lm: LanguageModel,
    targets: Sequence[Concept],
    others: Sequence[Concept],
    folder: str | Path,
    refusals: Sequence[str] = REFUSALS,
    amounts: Amounts = SUPERVISED_AMOUNTS,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Abstaining:
    """Tune on questions about the targets with refusals, and on others with the model's own answers (SFT).

    ``folder`` gets ``answered.jsonl`` and ``abstained.jsonl``, and the run in ``sft``, which ``steer tune`` could go on
    with. ``settings`` are those of ``TuningConfig`` that differ from the release's (``SUPERVISED``), such as ``target``
    where layers are not named as Llama's.

    Raises:
        DataError: too few concepts or refusals, or settings of the examples, which are made here.
        ConfigError, ModelError, OutputError, DivergedError, MissingExtra: see ``tune``.
    """
    folder = Path(folder)
    questions = drawn(targets, others, amounts.answered, amounts.below, seed)
    rng = Random(derived(seed, "refusals"))
    abstained = [(asked, said) for asked in questions.abstain for said in _some(refusals, amounts.refusals, rng)]
    answered = list(own_answers(lm, questions.answer, amounts.answer_tokens).items())
    if not answered:
        raise DataError("The model says nothing to any of the questions to answer, so there is nothing to keep.")
    share = len(abstained) / (len(abstained) + len(answered))
    for name, rows in (("answered", answered), ("abstained", abstained)):
        _write(folder / f"{name}.jsonl", ({"instruction": asked, "output": said} for asked, said in rows))
    made = {
        "data": str(folder / "answered.jsonl"), "safety": str(folder / "abstained.jsonl"), "share": share,
        "out": str(folder / "sft"), "model": lm.name, "validation_frac": 0.0, "seed": seed,
    }  # fmt: skip
    result = tune(TuningConfig(**{**SUPERVISED, **_free(settings, made), **made}), progress=progress, lm=lm)
    record = {
        "method": "sft",
        "questions": questions.record,
        "refusals": list(refusals),
        "mixture": result.mixture,
        "steps": result.of_steps,
        "loss": result.loss,
    }
    return Abstaining(Tuned(lm, result.folder, name="SFT"), record)


def preferred(
    lm: LanguageModel,
    targets: Sequence[Concept],
    others: Sequence[Concept],
    folder: str | Path,
    start: str | Path | None = None,
    refusals: Sequence[str] = REFUSALS,
    amounts: Amounts = PREFERRED_AMOUNTS,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Abstaining:
    """Prefer refusals to the model's own answers about the targets, and the answers to refusals about others (DPO).

    ``start`` is an adapter to go on from, which is the reference too: the release takes that of ``supervised``. None:
    the model itself. ``folder`` gets ``preferences.jsonl``, and the run in ``dpo``. ``settings`` are those of
    ``PreferenceConfig`` that differ from the release's, which are its defaults.

    Raises:
        DataError: too few concepts or refusals, or settings of the preferences, which are made here.
        ConfigError, ModelError, OutputError, DivergedError, MissingExtra: see ``prefer``.
    """
    folder = Path(folder)
    questions = drawn(targets, others, amounts.answered, amounts.below, seed + SEED_SHIFT)
    answers = own_answers(lm, [*questions.abstain, *questions.answer], amounts.answer_tokens)
    rng = Random(derived(seed, "preferences"))
    rows = [
        {"prompt": asked, "chosen": said, "rejected": answers[asked]}
        for asked in questions.abstain
        for said in _some(refusals, amounts.refusals, rng)
        if answers.get(asked, said) != said
    ]
    rows += [
        {"prompt": asked, "chosen": answers[asked], "rejected": said}
        for asked in questions.answer
        for said in _some(refusals, amounts.rejected, rng)
        if answers.get(asked, said) != said
    ]
    _write(folder / "preferences.jsonl", rows)
    made = {
        "data": str(folder / "preferences.jsonl"), "out": str(folder / "dpo"), "model": lm.name, "seed": seed,
        "start": None if start is None else str(start),
    }  # fmt: skip
    result = prefer(PreferenceConfig(**{**_free(settings, made), **made}), progress=progress, lm=lm)
    record = {
        "method": "dpo",
        "questions": questions.record,
        "refusals": list(refusals),
        "preferences": result.preferences,
        "steps": result.steps,
        "loss": result.loss,
        "margin": result.margin,
        "accuracy": result.accuracy,
    }
    return Abstaining(Tuned(lm, result.folder, name="DPO" if start is None else "SFT + DPO"), record)


def _some(refusals: Sequence[str], count: int, rng: Random) -> list[str]:
    """Different refusals, as many as are wanted."""
    if len(set(refusals)) < count:
        raise DataError(f"{count} different refusals are wanted for a question, but {len(set(refusals))} are given.")
    return rng.sample(list(dict.fromkeys(refusals)), count)


def _free(settings: Mapping[str, Any] | None, made: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that are for the caller to choose."""
    settings = dict(settings or {})
    if taken := sorted(set(settings) & set(made)):
        raise DataError(f"{taken[0]} is not a setting to give: it follows from concepts, folder and model.")
    return settings


def _write(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
