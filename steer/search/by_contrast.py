"""Latents by how well they tell two sets of prompts apart: the sets read, the test, and what is said of each latent."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from saes import SAE
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.search.contrast import Contrasted, contrast
from steer.search.firing import firing
from steer.search.indexed import Indexed
from steer.search.parts import rows_of
from steer.search.policy import policy_of
from steer.search.pooled import pooled
from steer.search.prompt_sets import distinct
from steer.search.query import ContrastQuery
from steer.search.ranked import Allowed, Ranking
from steer.search.resplits import AMONG


@dataclass(frozen=True)
class Compared:
    """A ranking by contrast."""

    ranking: Ranking
    notes: tuple[str, ...]
    about: Mapping[str, Any]


def by_contrast(
    lm: LanguageModel,
    sae: SAE,
    site: Site,
    asked: ContrastQuery,
    index: Indexed,
    allowed: Allowed,
    depth: int,
) -> Compared:
    """All latents tested on two sets of prompts; those that fire more on the first are ranked.

    Errors as ``distinct``, ``rows_of``, ``firing`` and ``contrast``.
    """
    first, second, notes = distinct(asked.first, asked.second)
    rows = rows_of(lm, [*first, *second], asked.part, asked.reply_tokens)
    fired = firing(lm, sae, site, rows, policy_of(index, asked.part))
    matrix = pooled(fired, sae.config.d_sae, asked.pool)
    found = contrast(matrix, np.arange(len(rows)) < len(first), asked.config, index.columns.get("density"))
    order = found.order(asked.config.fdr)
    notes += found.notes
    if not len(order):
        notes.append(
            f"no latent tells the sets apart at a false discovery rate of {asked.config.fdr:g} (the least is "
            f"{found.q.min():.2g}, of {len(found.latents):,} tested)."
        )
    about = _told(asked, found) | {
        "tokens_left_out": sum(int(row.counted.sum()) - one.length for row, one in zip(rows, fired, strict=True))
    }
    if allowed is not None:
        order = order[allowed[found.latents[order]]]
    order = order[:depth]
    ranking = Ranking(
        "contrast", found.latents[order], found.score[order],
        "AUC effect x rarity" if asked.config.by_rarity else "AUC effect",
        lambda place: says(found, int(order[place])), len(found.latents),
    )  # fmt: skip
    return Compared(ranking, tuple(f"contrast: {note}" for note in notes), about)


def says(found: Contrasted, place: int) -> str:
    """One latent's figures in words."""
    parts = [f"fires on {found.firing_first[place]:.0%} against {found.firing_second[place]:.0%} of prompts"]
    if np.isfinite(found.held_auc[place]):
        interval = f"{found.held_low[place]:.2f} to {found.held_high[place]:.2f}"
        n = f"n = {found.n_held[0]} + {found.n_held[1]}"
        parts.append(f"held-out AUC {found.held_auc[place]:.2f} ({interval}, {n})")
    parts.append(
        f"AUC {found.auc[place]:.2f}, p {found.p[place]:.2g}, q {found.q[place]:.2g} (n = {found.n[0]} + {found.n[1]})"
    )
    if np.isfinite(found.stable[place]):
        parts.append(f"among the first {AMONG} in {found.stable[place]:.0%} of re-splits")
    return "; ".join(parts)


def _told(asked: ContrastQuery, found: Contrasted) -> dict[str, Any]:
    return {
        **asdict(asked.config),
        "part": asked.part,
        "pool": asked.pool,
        "prompts": list(found.n),
        "prompts_held_out": list(found.n_held),
        "prompts_without_match": list(found.unmatched),
        "strata_of_length": found.strata,
        "latents_tested": len(found.latents),
        "latents_found": len(found.order(asked.config.fdr)),
    }
