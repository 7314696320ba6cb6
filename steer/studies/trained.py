"""The SAEs of the main job: trained on one reading of the text, and measured on texts that they have not seen."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

import saes
from saes import SAE, Firing, Quality, TrainConfig, TrainRecord
from steer.activations.stream import activation_batches, activation_rows
from steer.errors import DataError
from steer.features.archetype import ActiveLatent, latents_active
from steer.features.controls import silent_latents
from steer.progress import Progress
from steer.studies.config import DemoConfig
from steer.studies.prepare import Prepared
from steer.studies.record import RunRecord

SAE_BETA2 = 0.999  # what the published figures were measured with; another gives other SAEs


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


def train_and_measure(config: DemoConfig, ready: Prepared, job: RunRecord) -> list[Trained]:
    """The SAEs, one for each seed, trained on all texts but those kept to measure them on.

    Raises:
        DataError: no SAE has a candidate for the refusal latent and leaves one for a control. Where some have, the
            others are left out.
    """
    lm, site = ready.lm, ready.site
    held_out, training = ready.texts[: config.held_out_texts], ready.texts[config.held_out_texts :]
    with job.stage("train SAEs", config.sae_tokens):
        trained = _train(config, ready, training, job.progress)
    with job.stage("measure SAEs"):
        rows = list(activation_rows(lm, site, held_out))
        found: list[Trained] = []
        for number, one in enumerate(trained):
            try:
                found.append(_measured(ready, *one, rows))
            except DataError as error:
                if number == len(trained) - 1 and not found:
                    raise
                job.progress.note(f"the SAE of seed {one[1]} is left out: {error}")
        return found


def _measured(ready: Prepared, sae: SAE, seed: int, records: list[TrainRecord], rows: list[Tensor]) -> Trained:
    quality, firing = saes.measure(sae, rows)
    active = latents_active(ready.lm, sae, ready.site, ready.refusal)
    if not active:
        raise DataError("No latent is active on two tokens of the refusal: train the SAE on more text, or raise k.")
    silent_latents(firing, active)  # raises now if no control will be found
    return Trained(sae, seed, records, quality, firing, active)


def _train(
    config: DemoConfig, ready: Prepared, texts: Sequence[list[int]], progress: Progress
) -> list[tuple[SAE, int, list[TrainRecord]]]:
    """The SAEs, each with its seed and the log of its training."""
    seeds = range(config.seed, config.seed + config.saes)
    trains = [
        TrainConfig(
            total_tokens=config.sae_tokens,
            lr=config.sae_lr,
            adam_beta2=SAE_BETA2,
            seed=seed,
            measure_every_steps=5,
        )
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
