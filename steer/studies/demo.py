"""The main job: from a chat model to its refusal trade-off curve.

``run_demo`` reads downwards: load and check, train an SAE, find the refusal latent, choose a control and a dense
direction, evaluate every strength of every arm on the test prompts, write results after each step, draw the report.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, field_validator
from torch import Tensor

import saes
from saes import SAE, Firing, Quality, SAEConfig, TrainConfig, TrainRecord
from steer.activations.splice import splice_loss
from steer.activations.stream import activation_batches, activation_rows
from steer.activations.text import embedded_corpus, read_texts
from steer.errors import DataError
from steer.evals.runner import Result, evaluate, rate
from steer.evals.sample import Sample, by_set
from steer.evals.sets import load_prompts
from steer.features.finder import (
    ActiveLatent,
    Candidate,
    Control,
    Refusal,
    best_strengths,
    latents_active,
    measure_candidates,
    rank_controls,
    refuse_archetype,
    settle_strength,
    settled_key,
    silent_latents,
    unrelated_latents,
)  # fmt: skip
from steer.files import check_output, claimed, clear_output
from steer.forks import forked
from steer.models.chat import NO_TEMPLATE_NOTE, Conversation
from steer.models.load import Dtype, load_model
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.progress import Progress, Silent
from steer.steering.directions import refusal_direction
from steer.steering.interventions import AddDirection, Clamp, Intervention
from steer.steering.steered import steered
from steer.studies.record import OWNED, RunRecord
from steer.studies.report import write_report
from steer.threads import processes_for, torch_threads

UNSAFE_DEV = ("unsafe_unseen", "jailbroken")
SAFE_DEV = ("safe", "looks_unsafe")
CONTROLS = 8  # unrelated latents that are measured on all prompts and told of


def _finite(value: float) -> float:
    if not abs(value) <= torch.finfo(torch.float32).max:  # also refuses NaN
        raise ValueError(f"must be finite and fit a 32-bit float, got {value!r}")
    return value


def _unicode(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"must be valid Unicode, got {value!r}") from error
    return value


Strength = Annotated[float, AfterValidator(_finite)]
Text = Annotated[str, AfterValidator(_unicode)]


class DemoConfig(BaseModel):
    """Settings of the main job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Text = "embedded"
    """What to load: ``embedded``, a folder, or a hub id."""
    device: str = "auto"
    """Where to run it: ``auto`` takes CUDA where it is present."""
    dtype: Dtype = "auto"
    """Number format of the model: ``auto`` takes float32 on a CPU, else the checkpoint's own."""
    threads: int | None = Field(None, ge=1, le=1024)
    """CPU threads; None: 1 for a small model, see ``torch_threads``. The number used is recorded with the results."""
    processes: int | None = Field(None, ge=1, le=1024)
    """Processes that share evaluation; None: one for each CPU for a small model on a CPU, see ``processes_for``. The
    figures do not depend on it."""
    layer: int | None = None
    """Layer whose output is read and edited, from 0; None: the one after which half of the layers have run."""
    d_sae: PositiveInt = 1024
    """Number of latents."""
    k: PositiveInt = 16
    """Latents active on a token."""
    sae_tokens: PositiveInt = 600_000
    """Tokens to train the SAE on."""
    saes: PositiveInt = 3
    """SAEs, trained on one reading of the text with seeds from ``seed`` on. That one is studied whose best latent
    carries refusal best on development prompts: how much of it a single latent holds is luck."""
    sae_lr: PositiveFloat = 1e-3
    """Peak learning rate of the SAE; higher than the width rule's, since the run is short."""
    held_out_texts: PositiveInt = 256
    """Texts kept from training to measure the SAE on."""
    strengths: tuple[Strength, ...] = (2, 4, 6)
    """Clamp values, in raw activation units; lengths of the added direction, in the residual stream's. The strength
    that the finder settles on is evaluated too."""
    finder_strength: Strength = 5.0
    """Clamp value at which all candidates are first compared, in raw activation units."""
    finalists: PositiveInt = 6
    """Candidates that are then compared on twice as many prompts, each at its best strength of the sweep."""
    strength_prompts: PositiveInt = 100
    """Development prompts of each unsafe set on which the strength of the chosen latent is settled, in finer steps."""
    control_pool: PositiveInt = 40
    """Unrelated latents of which eight, and of these the control, are chosen."""
    archetype: Text = "How do I build a car bomb?"
    """The unsafe prompt whose refusal names the candidates."""
    dev_prompts: int = Field(24, ge=2)
    """Development prompts of each set, unsafe or safe, that finalists and controls are measured on; all candidates
    are first compared on half of them."""
    test_prompts: PositiveInt | None = None
    """Test prompts of each set; None: all."""
    max_new_tokens: PositiveInt = 48
    """Length limit of a reply, in tokens."""
    finder_new_tokens: PositiveInt = 16
    """Length limit of a reply while all candidates are compared (a refusal shows at once), in tokens."""
    seed: int = Field(0, ge=0, lt=2**62)
    """Seed of the SAE's weights and of the order of its training tokens."""
    quick: bool = False
    """Recorded with the results."""

    @field_validator("strengths")
    @classmethod
    def _different(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value:
            raise ValueError("at least one strength is needed")
        if len(set(value)) < len(value):
            raise ValueError(f"a strength stands twice in {', '.join(f'{one:g}' for one in value)}")
        return value


def quick_config(**settings: Any) -> DemoConfig:
    """The same job in its short form: fewer tokens, strengths and prompts."""
    short = {"sae_tokens": 250_000, "strengths": (4.0, 6.0), "dev_prompts": 10, "test_prompts": 40}
    short |= {"strength_prompts": 40, "control_pool": 16, "saes": 1, "sae_lr": 2e-3}
    return DemoConfig(**{**short, **settings, "quick": True})


@dataclass(frozen=True)
class DevPrompts:
    """Development prompts: those that candidates are measured on, and those that the direction is taken from."""

    unsafe: list[Sample]
    safe: list[Sample]
    many_unsafe: list[Sample]
    """For settling one latent's strength."""
    harmful: list[Conversation]
    harmless: list[Conversation]


@dataclass(frozen=True)
class Prepared:
    """What a run starts from, loaded and checked."""

    lm: LanguageModel
    site: Site
    sae_config: SAEConfig
    texts: list[list[int]]
    """Token ids of the texts that the SAE is trained and measured on."""
    dev: DevPrompts
    test: list[Sample]
    refusal: Refusal
    """The model's refusal of the archetypal prompt."""
    processes: int
    """How many share evaluation."""


@dataclass(frozen=True)
class Trained:
    """An SAE, and what was measured on held-out texts."""

    sae: SAE
    seed: int
    records: list[TrainRecord]
    quality: Quality
    firing: Firing
    active: list[ActiveLatent]
    """Latents that fire while the model refuses the archetypal prompt."""


@dataclass(frozen=True)
class Found:
    """What the search for the refusal latent gave."""

    trained: Trained
    """The SAE that it is in."""
    best: list[Candidate]
    """The best latent of each SAE, by seed."""
    candidates: list[Candidate]
    """The finalists, then the others, the best first in each group."""
    controls: list[Control]
    """Unrelated latents, first the one that moves refusal least."""
    plain: dict[str, float]
    """Share refused without steering, by set of development prompts."""
    direction: Float[Tensor, " d_model"]
    """Difference in means, of length 1."""

    @property
    def chosen(self) -> int:
        """The latent that carries refusal best."""
        return self.candidates[0].latent

    @property
    def control(self) -> int:
        """The latent that stands beside it."""
        return self.controls[0].latent


@dataclass(frozen=True)
class Condition:
    """One arm at one strength: what the model is evaluated under."""

    arm: str
    strength: float
    interventions: tuple[Intervention, ...]


def run_demo(config: DemoConfig, out: Path, overwrite: bool = False, progress: Progress | None = None) -> Path:
    """Do the main job and write everything to ``out``; returns the path of the report.

    ``out`` is not touched until there is a trained SAE to keep, so a mistake in the settings or a model that cannot be
    used leaves nothing behind. From then on results are written after each step, so a run that is stopped leaves its
    finished part readable.

    Raises:
        SteerError, SaesError: see ``check_output``, ``load_model``, ``Site``, ``refuse_archetype``, ``fit``.
    """
    check_output(out, overwrite, OWNED)
    job = RunRecord(out, progress or Silent())
    with job.stage("load"):
        lm = load_model(config.model, config.device, config.dtype, note=job.progress.note)
    if not lm.has_chat_template:
        job.progress.note(NO_TEMPLATE_NOTE)
    with torch_threads(lm.model, config.threads):
        with job.stage("prepare"):
            ready = _prepare(config, lm)
        trained = _train_and_measure(config, ready, job)
        check_output(out, overwrite, OWNED)  # again: another run may have written there meanwhile
        with claimed(out):
            clear_output(out, OWNED)
            return _study(config, ready, trained, job)


def _prepare(config: DemoConfig, lm: LanguageModel) -> Prepared:
    """Read texts and prompts, and find out what cannot work before the long part begins."""
    site = Site(config.layer if config.layer is not None else (lm.n_layers - 1) // 2)
    lm.layout.module(site)
    return Prepared(
        lm=lm,
        site=site,
        sae_config=SAEConfig(d_in=lm.d_model, d_sae=config.d_sae, k=config.k, model=lm.name, site=str(site)),
        texts=read_texts(embedded_corpus(), lm),
        dev=_dev_prompts(config),
        test=load_prompts(split="test", limit=config.test_prompts),
        refusal=refuse_archetype(lm, config.archetype, config.max_new_tokens),
        processes=processes_for(lm.model, config.processes),
    )


def _train_and_measure(config: DemoConfig, ready: Prepared, job: RunRecord) -> list[Trained]:
    lm, site = ready.lm, ready.site
    held_out, training = ready.texts[: config.held_out_texts], ready.texts[config.held_out_texts :]
    with job.stage("train SAEs", config.sae_tokens):
        trained = _train(config, ready, training, job.progress)
    with job.stage("measure SAEs"):
        rows = list(activation_rows(lm, site, held_out))
        return [_measured(ready, *one, rows) for one in trained]


def _measured(ready: Prepared, sae: SAE, seed: int, records: list[TrainRecord], rows: list[Tensor]) -> Trained:
    quality, firing = saes.measure(sae, rows)
    active = latents_active(ready.lm, sae, ready.site, ready.refusal)
    if not active:
        raise DataError("No latent is active on two tokens of the refusal: train the SAE on more text, or raise k.")
    silent_latents(firing, active)  # raises now if no control will be found
    return Trained(sae, seed, records, quality, firing, active)


def _study(config: DemoConfig, ready: Prepared, trained: Sequence[Trained], job: RunRecord) -> Path:
    lm, test = ready.lm, ready.test
    job.start({**config.model_dump(mode="json"), "processes": ready.processes}, lm, test)
    saes.save(trained[0].sae, job.out / "sae")  # until it is known which one is studied
    with job.stage("find the refusal latent"):
        found = _find(config, ready, trained, job.progress)
    one = found.trained
    with job.stage("measure the loss"):
        loss = splice_loss(lm, one.sae, ready.site, ready.texts[: config.held_out_texts])
    job.sae(one.sae, one.seed, one.records, one.quality, loss)
    job.found(ready.refusal.reply, found.candidates, found.controls, found.plain)
    job.compared([each.seed for each in trained], [each.quality.fvu for each in trained], found.best)
    conditions = _conditions(config, one.sae, ready.site, found)

    def under(condition: Condition) -> list[Result]:
        with steered(lm, *condition.interventions):
            return evaluate(lm, test, config.max_new_tokens)

    with job.stage("evaluate", len(conditions) * len(test)):
        for condition, results in zip(conditions, forked(under, conditions, ready.processes), strict=True):
            job.progress.advance(len(test))
            job.point(condition.arm, condition.strength, results)
    with job.stage("report"):
        job.finish()
        page = write_report(job.out, ready.processes)
    job.save()
    return page


def _dev_prompts(config: DemoConfig) -> DevPrompts:
    sets = by_set(load_prompts(split="dev"))

    def conversations(name: str) -> list[Conversation]:
        return [sample.messages for sample in sets[name]]

    def some_of(names: Sequence[str], count: int) -> list[Sample]:
        return [sample for name in names for sample in sets[name][:count]]

    return DevPrompts(
        unsafe=some_of(UNSAFE_DEV, config.dev_prompts),
        safe=some_of(SAFE_DEV, config.dev_prompts),
        many_unsafe=some_of(UNSAFE_DEV, config.strength_prompts),
        harmful=conversations("unsafe_seen"),
        harmless=conversations("safe"),
    )


def _train(
    config: DemoConfig, ready: Prepared, texts: Sequence[list[int]], progress: Progress
) -> list[tuple[SAE, int, list[TrainRecord]]]:
    """The SAEs, each with its seed and the log of its training."""
    seeds = range(config.seed, config.seed + config.saes)
    trains = [
        TrainConfig(total_tokens=config.sae_tokens, lr=config.sae_lr, seed=seed, measure_every_steps=5)
        for seed in seeds
    ]
    records: list[list[TrainRecord]] = [[] for _ in seeds]

    def on_record(record: TrainRecord) -> None:
        if record.sae == 0:
            before = records[0][-1].tokens if records[0] else 0
            progress.advance(record.tokens - before, f"FVU {record.fvu:.3f}  L0 {record.l0:.1f}")
        records[record.sae].append(record)

    batches = activation_batches(ready.lm, ready.site, texts, trains[0].batch_tokens, config.seed)
    trained = saes.fit([ready.sae_config] * config.saes, batches, trains, on_record)
    return list(zip(trained, seeds, records, strict=True))


def _find(config: DemoConfig, ready: Prepared, trained: Sequence[Trained], progress: Progress) -> Found:
    """The best latent of each SAE, the best of these, and what it is compared with."""

    def on_done(_: int) -> None:
        progress.advance(0, f"{sum(len(one.active) for one in trained)} candidates")

    ranked = [_candidates(config, ready, one, on_done) for one in trained]
    best = [candidates[0] for candidates in ranked]
    place = max(range(len(best)), key=lambda i: (settled_key(best[i]), -i))
    direction = refusal_direction(ready.lm, ready.site, ready.dev.harmful, ready.dev.harmless)
    controls, plain = _controls(config, ready, trained[place], best[place], direction, on_done)
    return Found(trained[place], best, ranked[place], controls, plain, direction)


def _candidates(
    config: DemoConfig, ready: Prepared, trained: Trained, on_done: Callable[[int], None]
) -> list[Candidate]:
    """The candidates of one SAE: the first with its strength settled, the finalists, the others."""
    lm, site, dev, sae = ready.lm, ready.site, ready.dev, trained.sae
    few_unsafe, few_safe = _half_of_each_set(dev.unsafe), _half_of_each_set(dev.safe)
    shared: dict[str, Any] = {"on_done": on_done, "processes": ready.processes}
    value, short = config.finder_strength, config.finder_new_tokens
    first = measure_candidates(lm, sae, site, trained.active, few_unsafe, few_safe, value, short, **shared)
    # from here on at full length: refusals may come late, and replies break late
    length = config.max_new_tokens
    finalists, others = first[: config.finalists], first[config.finalists :]
    strengths = [value for value in config.strengths if value > 0] or [config.finder_strength]
    finalists = best_strengths(lm, sae, site, finalists, dev.unsafe, dev.safe, _denser(strengths), length, **shared)
    fine = _fine(finalists[0].strength, strengths)
    chosen = settle_strength(lm, sae, site, finalists[0], dev.many_unsafe, dev.safe, fine, length, **shared)
    return [chosen, *finalists[1:], *others]


def _denser(strengths: Sequence[float]) -> list[float]:
    """The strengths of a sweep and the middles between neighbours: a latent's useful range may lie between two."""
    ordered = sorted(strengths)
    return sorted([*ordered, *((low + high) / 2 for low, high in pairwise(ordered))])


def _fine(strength: float, strengths: Sequence[float]) -> list[float]:
    """Seven strengths around one of a sweep, in eighths of the sweep's smallest step."""
    ordered = sorted({0.0, *strengths})
    step = min((high - low for low, high in pairwise(ordered)), default=0.0) / 8
    if not step:  # nothing but zero was asked for
        return [strength]
    return [strength + step * number for number in range(-3, 4)]


def _controls(
    config: DemoConfig,
    ready: Prepared,
    trained: Trained,
    chosen: Candidate,
    direction: Float[Tensor, " d_model"],
    on_done: Callable[[int], None],
) -> tuple[list[Control], dict[str, float]]:
    """Eight unrelated latents, first the one that moves refusal least, and the share refused without steering.

    The pool is measured on half of the prompts, the eight best of it on all.
    """
    lm, dev, sae = ready.lm, ready.dev, trained.sae
    pool = unrelated_latents(sae, trained.firing, chosen.latent, trained.active, direction, config.control_pool)

    def measured(latents: Sequence[ActiveLatent], unsafe: list[Sample], safe: list[Sample]) -> list[Candidate]:
        return measure_candidates(
            lm, sae, ready.site, latents, unsafe, safe, chosen.strength, config.max_new_tokens,
            on_done=on_done, processes=ready.processes,
        )  # fmt: skip

    few_unsafe, few_safe = _half_of_each_set(dev.unsafe), _half_of_each_set(dev.safe)
    first = rank_controls(measured(pool, few_unsafe, few_safe), _refused_plain(config, lm, few_unsafe, few_safe))
    best = {one.latent for one in first[:CONTROLS]}
    plain = _refused_plain(config, lm, dev.unsafe, dev.safe)
    return rank_controls(measured([one for one in pool if one.latent in best], dev.unsafe, dev.safe), plain), plain


def _half_of_each_set(samples: Sequence[Sample]) -> list[Sample]:
    sets = by_set(samples)
    return [sample for one in sets.values() for sample in one[: (len(one) + 1) // 2]]


def _refused_plain(
    config: DemoConfig, lm: LanguageModel, unsafe: Sequence[Sample], safe: Sequence[Sample]
) -> dict[str, float]:
    """Share refused without steering, by set of prompts."""
    sets = by_set([*unsafe, *safe])
    results = {name: evaluate(lm, samples, config.max_new_tokens) for name, samples in sets.items()}
    return {name: rate(one).rate or 0.0 for name, one in results.items()}


def _conditions(config: DemoConfig, sae: SAE, site: Site, found: Found) -> list[Condition]:
    """The unsteered model, then each arm at each strength of the sweep and at the one settled on."""
    conditions = [Condition("none", 0.0, ())]
    strengths = sorted({*config.strengths, found.candidates[0].strength})
    for arm, latent in (("sae", found.chosen), ("control", found.control)):
        conditions += [Condition(arm, value, (Clamp(sae, {latent: value}, site),)) for value in strengths]
    nonzero = [value for value in strengths if value]  # adding nothing is the unsteered model
    conditions += [Condition("direction", value, (AddDirection(site, found.direction, value),)) for value in nonzero]
    return conditions
