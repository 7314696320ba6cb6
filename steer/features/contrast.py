"""``contrast``: latents that tell harmful prompts from harmless ones, before the reply and in it.

Of each prompt the largest activation over its last tokens is taken (those of the chat template after the user's words),
and of each of the model's own replies the largest over the reply. How well such an activation tells the two kinds
apart is the area under the ROC curve, which knows no units, so a latent that is large everywhere gains nothing by it.
"""

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import false_discovery_control, mannwhitneyu
from torch import Tensor

from steer.features.search import Found, Search
from steer.features.states import largest
from steer.steering.directions import template_tokens

CHUNK = 4096  # latents of which ranks are taken together


def find(search: Search) -> list[Found]:
    """Latents by ``2 AUC - 1`` (Somers' D, -1 to 1) of harmful against harmless, at the prompt's end or in the reply.

    The larger of the two counts; equal ones are told apart by how far the means lie from each other.
    """
    n = len(search.harmful)
    replies = search.replies
    spoken = [one for one in replies if one.reply_ids]
    bad = sum(bool(one.reply_ids) for one in replies[:n])
    both = 0 < bad < len(spoken)
    with search.progress.stage("contrast: activations", len(replies) + len(spoken) * both):
        places = {"the last prompt tokens": _at_prompts(search)}
        if both:
            rows = [[*one.prompt_ids, *one.reply_ids] for one in spoken]
            lengths = [len(one.reply_ids) for one in spoken]
            found = largest(search.lm, search.sae, search.site, rows, lengths, search.progress.advance)
            places["the reply"] = found[:bad], found[bad:]
    ranked = []
    for where, (harmful, harmless) in places.items():
        d, q = separation(harmful, harmless)
        gap = harmful.double().mean(0) - harmless.double().mean(0)
        spread = torch.cat([harmful, harmless]).double().std(0).clamp_min(1e-12)
        for latent in (d > 0).nonzero().flatten().tolist():
            why = f"AUC {(1 + d[latent].item()) / 2:.3f} at {where}, q = {q[latent].item():.1e}"
            ranked.append((d[latent].item(), (gap / spread)[latent].item(), latent, why))
    ranked.sort(key=lambda one: (-one[0], -one[1], one[2]))
    first = {latent: Found(latent, d, why) for d, _, latent, why in reversed(ranked)}  # a latent's better place stays
    order = dict.fromkeys(latent for _, _, latent, _ in ranked)
    return [first[latent] for latent in order][: search.limit]


def separation(
    harmful: Float[Tensor, "harmful latent"], harmless: Float[Tensor, "harmless latent"]
) -> tuple[Float[Tensor, " latent"], Float[Tensor, " latent"]]:
    """``2 AUC - 1`` of each latent, float64, and the false-discovery rate at which it differs from 0.

    The p-values behind that are those of Mann and Whitney's test with a correction for ties; the rates are Benjamini
    and Hochberg's over all latents. A latent with the same activation everywhere gives 0, and a rate of 1.
    """
    d, p = [], []
    for start in range(0, harmful.shape[1], CHUNK):
        one, other = (kind[:, start : start + CHUNK].double().numpy() for kind in (harmful, harmless))
        with np.errstate(invalid="ignore", divide="ignore"):  # of latents that never vary
            test = mannwhitneyu(one, other, axis=0, method="asymptotic")
        d.append(2 * test.statistic / (len(one) * len(other)) - 1)
        p.append(np.nan_to_num(test.pvalue, nan=1.0))
    q = false_discovery_control(np.clip(np.concatenate(p), 0, 1))
    return torch.from_numpy(np.concatenate(d)), torch.from_numpy(q)


def _at_prompts(search: Search) -> tuple[Tensor, Tensor]:
    count = template_tokens(search.lm)
    rows = search.lm.prompt_ids([one.messages for one in (*search.harmful, *search.harmless)])
    lengths = [min(count, len(row) - 1) for row in rows]
    found = largest(search.lm, search.sae, search.site, rows, lengths, search.progress.advance)
    return found[: len(search.harmful)], found[len(search.harmful) :]
