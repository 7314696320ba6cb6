"""Sparse probing: how well a few latents tell classes of prompts apart (Gurnee et al., arXiv 2305.01610; SAEBench)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saes.metrics.logistic import fit_logistic
from saes.metrics.sparse_probe import rank_by_mean_difference
from steer.quality.prompts import PromptReadings, Task

LATENTS = (1, 2, 5)  # as SAEBench


@dataclass(frozen=True)
class TaskAccuracy:
    """Test accuracy on one task; both classes are equally large, so that guessing gives 0.5."""

    task: str
    prompts: int
    """Test prompts."""
    latents: dict[int, float]
    """Of the probe on so many latents."""
    channels: dict[int, float]
    """Of the probe on so many dimensions of the residual stream: what the SAE is to be better than."""
    dense: float
    """Of the probe on the whole residual stream: what there is to find."""


def probe_tasks(
    train: PromptReadings, train_tasks: Sequence[Task], test: PromptReadings, test_tasks: Sequence[Task], seed: int = 0
) -> list[TaskAccuracy]:
    """Fit on one split's prompts and measure on another's, for every task that both have.

    Latents and activations are means over a prompt's tokens; the latents of a probe are those whose means differ most
    between the classes; the probe is a logistic regression. Classes are balanced by drawing from the larger one.
    """
    found, generator = [], torch.Generator().manual_seed(seed)
    to_test = {task.name: task for task in test_tasks}
    for task in train_tasks:
        if task.name not in to_test:
            continue
        fit, fit_labels = _balanced(task, generator)
        held, held_labels = _balanced(to_test[task.name], generator)
        codes, held_codes = train.mean_codes[fit], test.mean_codes[held]
        x, held_x = train.mean[fit], test.mean[held]
        found.append(
            TaskAccuracy(
                task=task.name,
                prompts=len(held),
                latents={k: _accuracy(codes, fit_labels, held_codes, held_labels, k) for k in LATENTS},
                channels={k: _accuracy(x, fit_labels, held_x, held_labels, k) for k in LATENTS},
                dense=_accuracy(x, fit_labels, held_x, held_labels),
            )
        )
    return found


def _balanced(task: Task, generator: torch.Generator) -> tuple[Tensor, Bool[Tensor, " chosen"]]:
    """As many prompts of either class, and which of them are positive."""
    classes = [mask.nonzero().squeeze(-1) for mask in (task.positive, task.negative)]
    size = min(map(len, classes))
    chosen = [rows[torch.randperm(len(rows), generator=generator)[:size]] for rows in classes]
    return torch.cat(chosen), torch.arange(2 * size) < size


def _accuracy(
    x: Float[Tensor, "n d"],
    labels: Bool[Tensor, " n"],
    held: Float[Tensor, "m d"],
    held_labels: Bool[Tensor, " m"],
    k: int | None = None,
) -> float:
    """Test accuracy of a probe on k columns; None: on all."""
    x, held = x.cpu(), held.cpu()
    if k is not None:
        columns = rank_by_mean_difference(x, labels, k)
        x, held = x[:, columns], held[:, columns]
    probe = fit_logistic(x, labels)
    return ((probe.scores(held) > 0) == held_labels).double().mean().item()
