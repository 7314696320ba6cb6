"""Labelled prompts as a model and an SAE see them, and the classes that they belong to."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saes import SAE
from steer.activations.reading import by_length
from steer.evals.sample import Sample
from steer.evals.sets import SETS
from steer.models.model import LanguageModel
from steer.models.passes import after_first, positions_of
from steer.models.site import Site

UNSAFE, SAFE = ("unsafe_seen", "unsafe_unseen"), ("safe", "looks_unsafe")
_FORWARD_TOKENS = 8192
_LEAST = 7  # examples of a class


@dataclass(frozen=True)
class PromptReadings:
    """What the residual stream and the latents are on prompts, one row each."""

    last: Float[Tensor, "prompt d_model"]
    """Activations at the last token."""
    mean: Float[Tensor, "prompt d_model"]
    """Mean of the activations over the tokens but the first."""
    mean_codes: Float[Tensor, "prompt d_sae"]
    """Mean of the latents over the same tokens."""


@torch.no_grad()
def read_prompts(lm: LanguageModel, sae: SAE, site: Site, samples: Sequence[Sample]) -> PromptReadings:
    """Run the model on prompts that end where the reply begins; a prompt that is too long keeps its last tokens."""
    sae = sae.on(lm.device)
    rows = lm.prompt_ids([list(sample.messages) for sample in samples])
    rows = [ids[-lm.context :] if lm.context else ids for ids in rows]
    size = len(rows), lm.d_model
    last, mean = torch.zeros(size, device=lm.device), torch.zeros(size, device=lm.device)
    mean_codes = torch.zeros(len(rows), sae.config.d_sae, device=lm.device)
    for batch in by_length([len(ids) for ids in rows], _FORWARD_TOKENS):
        tokens = lm.pad([rows[i] for i in batch])
        x = lm.activations(tokens, [site])[site].float()
        kept = after_first(tokens.mask.bool(), positions_of(tokens.mask))
        share = (kept / kept.sum(-1, keepdim=True).clamp_min(1))[kept]  # of each token in its prompt
        prompt = torch.tensor(batch, device=lm.device).unsqueeze(-1).expand_as(kept)[kept]
        codes = sae.encode(x[kept])
        last[batch] = x[:, -1]
        mean.index_add_(0, prompt, x[kept] * share.unsqueeze(-1))
        places = (prompt.unsqueeze(-1).expand_as(codes.indices).flatten(), codes.indices.flatten())
        mean_codes.index_put_(places, (codes.values * share.unsqueeze(-1)).flatten(), accumulate=True)
    return PromptReadings(last, mean, mean_codes)


@dataclass(frozen=True)
class Task:
    """A question with yes or no about prompts."""

    name: str
    positive: Bool[Tensor, " prompt"]
    negative: Bool[Tensor, " prompt"]
    """Prompts that it can be asked about are in one of the two."""


def tasks_of(samples: Sequence[Sample]) -> list[Task]:
    """Is it unsafe; is it of this set, among all; is it about this category, among those that have one."""
    sets = [sample.set for sample in samples]
    categories = [sample.tags.get("category") for sample in samples]

    def where(values: Sequence[str | None], wanted: Sequence[str]) -> Tensor:
        return torch.tensor([value in wanted for value in values], dtype=torch.bool)

    tasks = [Task("unsafe", where(sets, UNSAFE), where(sets, SAFE))]
    tasks += [Task(f"set {name}", where(sets, [name]), ~where(sets, [name])) for name in SETS]
    known = torch.tensor([category is not None for category in categories])
    for name in sorted({category for category in categories if category}):
        tasks.append(Task(f"category {name}", where(categories, [name]), known & ~where(categories, [name])))
    return [task for task in tasks if task.positive.sum() >= _LEAST and task.negative.sum() >= _LEAST]


def class_names(samples: Sequence[Sample]) -> list[str]:
    """Sets and categories, for ``class_labels``."""
    categories = {sample.tags["category"] for sample in samples if "category" in sample.tags}
    return [f"set {name}" for name in SETS] + [f"category {name}" for name in sorted(categories)]


def class_labels(samples: Sequence[Sample], names: Sequence[str]) -> Bool[Tensor, "prompt classes"]:
    """Which of the named classes each prompt belongs to."""
    own = [{f"set {sample.set}", f"category {sample.tags.get('category')}"} for sample in samples]
    return torch.tensor([[name in classes for name in names] for classes in own])
