"""An SAE on the embedded model in which it is known what each latent does: two are planted, the others are random."""

import torch

from saes import SAE, SAEConfig
from steer.evals.sets import load_prompts
from steer.features.replies import answer
from steer.features.search import Search
from steer.features.states import states_of
from steer.features.trial import Trial
from steer.models.site import Site
from steer.steering.directions import refusal_direction

SITE = Site(1)
REFUSES, SAYS = 7, 11
"""The latent along the refusal direction, active where the model decides to refuse, and one active while it says so."""


def planted_search(lm, limit=3, strengths=(0.12, 0.18, 0.4), **settings):
    """A search with few prompts, and the planted SAE. What is clamped on are harms that the model mostly answers."""
    seen, unseen, safe = (load_prompts(name, "dev", 60) for name in ("unsafe_seen", "unsafe_unseen", "safe"))
    sae = SAE(SAEConfig(lm.d_model, 48, 6, model=lm.name, site=str(SITE)), seed=3).requires_grad_(False)
    wrapped = load_prompts("jailbroken", "dev", 16)
    trial = Trial(lm, sae, SITE, [*unseen[10:16], *wrapped[10:]], safe[:8], 10)
    read = [*seen[40:56], *unseen[40:44]], safe[40:]
    replies = answer(trial, [*read[0], *read[1]])
    harmful, harmless = ([one.messages for one in kind[:40]] for kind in (seen, safe))
    _plant(sae, REFUSES, refusal_direction(lm, SITE, harmful, harmless), 1.0)
    said = {True: [], False: []}
    rows = [[*one.prompt_ids, *one.reply_ids] for one in replies]
    for i, x in states_of(lm, SITE, rows):
        said[replies[i].refused].append(x[-len(replies[i].reply_ids) :].mean(0))
    bad, good = (torch.stack(said[key]) for key in (True, False))
    between = torch.nn.functional.normalize(bad.mean(0) - good.mean(0), dim=0)
    _plant(sae, SAYS, between, ((bad @ between).mean() + (good @ between).mean()).item() / 2)
    texts = [row for row, one in zip(rows, replies, strict=True) if one.sample.set == "safe" and not one.refused][:4]
    return Search(trial, read[0], read[1], texts, limit=limit, strengths=strengths, **settings)


def _plant(sae, latent, direction, threshold):
    with torch.no_grad():
        sae.W_enc[:, latent], sae.W_dec[latent] = direction, direction
        sae.b_enc[latent] = -threshold
