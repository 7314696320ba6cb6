"""All that is known of an SAE on a model: ``evaluate_sae`` reads downwards and gives one JSON object."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import torch

import saes
from saes import SAE, Firing, Quality
from steer.activations.splice import SpliceLoss, splice_loss
from steer.activations.stream import placed_rows
from steer.errors import DataError, PlanError
from steer.evals.sets import load_prompts
from steer.evals.stats import Floats, bootstrap, percentiles, resamples
from steer.files import finite
from steer.models.model import LanguageModel
from steer.models.site import Site, check_written_after
from steer.progress import Progress, Silent
from steer.quality.absorption import ENOUGH_LETTERS, Absorption, first_letters, prompt_classes
from steer.quality.probing import LATENTS, TaskAccuracy, probe_tasks
from steer.quality.prompts import read_prompts, tasks_of

VERSION = 1
INTERVALS = "95 %, percentile bootstrap over texts (of probes: over tasks), 1,000 draws"
NO_ABSORPTION = "not defined for a transcoder: its decoder writes elsewhere than probes read"
_LOSS_COLUMNS = ("tokens", "plain", "spliced", "zeroed", "meaned", "kl", "kl_zeroed")


def evaluate_sae(
    lm: LanguageModel,
    sae: SAE,
    site: Site | str,
    texts: Sequence[Sequence[int]],
    probes: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure an SAE at a site of a model on held-out texts of token ids; see docs/quality.md for each figure.

    A transcoder reads at ``site`` and is measured by what it writes at its own ``site_out``.

    ``probes`` adds sparse probing and absorption on the prompts that ship with the package. Figures that are not
    defined are None. ``seed`` is that of the bootstrap, of balancing classes and of splitting words.

    Raises:
        PlanError: the SAE does not read or write activations of the model's width, or is a transcoder that does not say
            where it writes.
        SiteError: the model lacks a site, or reaches the one that is written before the one that is read.
        DataError: there is no text of at least two tokens.
    """
    site, show = Site.parse(site), progress or Silent()
    out = site_written(sae)
    check_fits(lm, sae, site)
    if not any(len(ids) > 1 for ids in texts):
        raise DataError("There is no text of at least two tokens to measure on.")
    sae = sae.on(lm.device)
    with show.stage("activations"):
        quality, firing = saes.measure(sae, placed_rows(lm, site, texts, site_out=out))
    with show.stage("loss", len(texts)):
        loss = splice_loss(lm, sae, site, texts, on_done=show.advance, site_out=out)
    found = {
        "version": VERSION,
        "sae": asdict(sae.config),
        "model": lm.name,
        "site": str(site),
        "site_out": None if out is None else str(out),
        "texts": len(texts),
        "tokens": quality.tokens,
        "intervals": INTERVALS,
        "activations": activation_figures(quality, seed),
        "latents": latent_figures(firing),
        "positions": asdict(quality.positions) if quality.positions else None,
        "loss": loss_figures(loss, seed),
    }
    if probes:
        with show.stage("probes"):
            found |= _probe_figures(lm, sae, site, seed)
    return finite(found)


def check_fits(lm: LanguageModel, sae: SAE, site: Site) -> None:
    """Raise PlanError unless the SAE reads and writes the model's width, SiteError unless the model has the sites."""
    for does, width in (("reads", sae.config.d_in), ("writes", sae.config.width_out)):
        if width != lm.d_model:
            raise PlanError(
                f"The SAE {does} activations of width {width}, but {lm.name} has width {lm.d_model}. "
                "Use the model that it was trained on."
            )
    lm.layout.module(site)
    if (out := site_written(sae)) is not None:
        lm.layout.module(out)
        check_written_after(site, out)


def site_written(sae: SAE) -> Site | None:
    """Where a transcoder writes; None for an autoencoder, which writes where it reads.

    Raises:
        PlanError: a transcoder does not say it.
        SiteError: what it says is no site.
    """
    if not sae.config.is_transcoder:
        return None
    if sae.config.site_out is None:
        raise PlanError("The transcoder does not say where it writes. Set site_out in its config (--site-out).")
    return Site.parse(sae.config.site_out)


def activation_figures(quality: Quality, seed: int) -> dict[str, Any]:
    """Figures of the reconstruction; of the global FVU, with its interval over texts."""
    left_out = {"tokens", "positions", "texts"}
    found = {one.name: getattr(quality, one.name) for one in fields(quality) if one.name not in left_out}
    interval = None
    if quality.texts is not None and len(quality.texts.tokens) > 1:
        weights = torch.from_numpy(resamples(len(quality.texts.tokens), seed=seed))
        interval = percentiles(quality.texts.fvu(weights).numpy())
    return {"explained_variance": quality.explained_variance, **found, "fvu_interval": interval}


def latent_figures(firing: Firing) -> dict[str, Any]:
    """Dead latents, and densities in fixed bins."""
    histogram = firing.histogram()
    return {"d_sae": len(firing.counts), "dead": histogram.never, "density": asdict(histogram)}


def loss_figures(loss: SpliceLoss, seed: int) -> dict[str, Any]:
    """Cross-entropies and divergences in nats per token, shares that are recovered, and all their intervals."""
    sums = np.array([[getattr(text, name) for name in _LOSS_COLUMNS] for text in loss.texts], dtype=np.float64)
    column = {name: place for place, name in enumerate(_LOSS_COLUMNS)}

    def mean(name: str, totals: Floats) -> Floats:
        return totals[:, column[name]] / totals[:, column["tokens"]]

    def recovered(totals: Floats, ablated: str, plain: str | None, spliced: str) -> Floats:
        before = mean(plain, totals) if plain else 0.0
        with np.errstate(divide="ignore", invalid="ignore"):
            return (mean(ablated, totals) - mean(spliced, totals)) / (mean(ablated, totals) - before)

    figures = {
        **{name: lambda totals, name=name: mean(name, totals) for name in _LOSS_COLUMNS[1:]},
        "recovered": lambda totals: recovered(totals, "zeroed", "plain", "spliced"),
        "recovered_from_mean": lambda totals: recovered(totals, "meaned", "plain", "spliced"),
        "kl_recovered": lambda totals: recovered(totals, "kl_zeroed", None, "kl"),
    }
    return {
        "tokens": int(sums[:, 0].sum()),
        **{name: getattr(loss, name) for name in figures},
        "intervals": {name: bootstrap(sums, figure, seed) for name, figure in figures.items()},
    }


def _probe_figures(lm: LanguageModel, sae: SAE, site: Site, seed: int) -> dict[str, Any]:
    train, test = load_prompts(split="dev"), load_prompts(split="test")
    readings = [read_prompts(lm, sae, site, samples) for samples in (train, test)]
    tasks = probe_tasks(readings[0], tasks_of(train), readings[1], tasks_of(test), seed)
    probing = {"sparse_probing": probing_figures(tasks, seed)}
    if sae.config.is_transcoder:
        return probing | {"absorption": dict.fromkeys(("prompt_classes", "first_letter"), NO_ABSORPTION)}
    try:
        letters: Absorption | str = first_letters(lm, sae, site, seed)
    except DataError as error:
        letters = str(error)
    return probing | {
        "absorption": {
            "prompt_classes": absorption_figures(prompt_classes(sae, readings[0], train, readings[1], test), 1),
            "first_letter": letters if isinstance(letters, str) else absorption_figures(letters, ENOUGH_LETTERS),
        },
    }


def probing_figures(tasks: Sequence[TaskAccuracy], seed: int) -> dict[str, Any]:
    """Mean test accuracy over tasks, with intervals over tasks, and every task's own."""
    columns = {
        **{f"latents_{k}": [task.latents[k] for task in tasks] for k in LATENTS},
        **{f"channels_{k}": [task.channels[k] for task in tasks] for k in LATENTS},
        "dense": [task.dense for task in tasks],
    }
    means = {name: sum(values) / len(values) for name, values in columns.items()}
    intervals = {
        name: bootstrap(np.array([[value, 1.0] for value in values]), lambda totals: totals[:, 0] / totals[:, 1], seed)
        for name, values in columns.items()
    }
    return {**means, "intervals": intervals, "tasks": [asdict(task) for task in tasks]}


def absorption_figures(found: Absorption, enough: int) -> dict[str, Any]:
    """Means over the concepts that the model has, where there are enough of them, and every concept's own."""
    counted = len(found.concepts) >= enough
    return {
        "fraction": found.mean("fraction") if counted else None,
        "full": found.mean("full") if counted else None,
        "concepts_found": len(found.concepts),
        "concepts_tried": found.tried,
        "concepts_needed": enough,
        "probe_f1": found.probe_f1,
        "concepts": [asdict(one) for one in found.concepts],
    }
