"""``output_score``: latents whose own tokens the model says once they are raised (Arad et al., arXiv 2505.20063).

Candidates are those of the paper's rule on the input side, active while the model refuses its archetype; what they say
decides. T_i are the 20 tokens that the decoder row of latent i promotes most through the final norm and the
unembedding (logit lens). After "From my experience," ten times the largest activation of any latent at the last token
is added to latent i there, and

    S_out = (1 - smallest rank of T_i / vocabulary) * largest probability of T_i

of the next token, ranks counted from 0 (section 4 there).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saes import SAE
from steer.features.paper import active_in_refusal
from steer.features.search import Found, Search, best
from steer.features.states import latents_of
from steer.models.model import LanguageModel
from steer.models.passes import Pass
from steer.models.site import Site
from steer.steering.each_row import edit_each_row
from steer.steering.steered import steered
from steer.steering.window import Window

PREFIX = "From my experience,"
FACTOR = 10.0
TOP = 20  # tokens that a latent promotes
ROWS = 128  # latents of one forward pass


def find(search: Search) -> list[Found]:
    """Latents active in the refusal, by their output score (0 to 1).

    Raises:
        DataError: see ``active_in_refusal``.
    """
    latents = [one.latent for one in active_in_refusal(search)]
    with search.progress.stage("output_score: next tokens", 2 * len(latents)):
        promoted = promoted_tokens(search.lm, search.sae, latents)
        search.progress.advance(len(latents))
        scores = output_scores(search.lm, search.sae, search.site, latents, promoted)
        search.progress.advance(len(latents))
    rows = []
    for score, latent, tokens in zip(scores.tolist(), latents, promoted.tolist(), strict=True):
        words = " ".join(repr(search.lm.tokenizer.decode([one])) for one in tokens[:4])
        rows.append((score, latent, f"output score {score:.3f}; promotes {words}"))
    return best(rows, search.limit)


def promoted_tokens(
    lm: LanguageModel, sae: SAE, latents: Sequence[int], count: int = TOP
) -> Int[Tensor, "latent count"]:
    """The tokens that each latent's decoder row promotes most, through the model's own final norm and unembedding."""
    sae, last = sae.on(lm.device), Site(lm.n_layers - 1)
    start = lm.prefix_id or 0  # any token: what the last layer gives is replaced
    found = []
    for some in _parts(latents):
        rows = sae.W_dec[list(some)].detach().unsqueeze(1)

        def put(x: Tensor, at: Pass, rows: Tensor = rows) -> Tensor:
            return rows.to(x)

        with lm.edited({last: put}):
            logits = lm.forward(lm.pad([[start]] * len(some)), keep=1)[:, -1]
        found.append(logits.float().topk(min(count, logits.shape[-1])).indices.cpu())
    return torch.cat(found)


def output_scores(
    lm: LanguageModel, sae: SAE, site: Site, latents: Sequence[int], promoted: Int[Tensor, "latent count"]
) -> Float[Tensor, " latent"]:
    """``S_out`` of each latent, float64."""
    sae, prefix = sae.on(lm.device), lm.raw_ids([PREFIX])
    x = lm.activations(lm.pad(prefix), [site])[site][0, -1:]
    amount = FACTOR * latents_of(sae, x).amax().item()
    found = []
    for some, tokens in zip(_parts(latents), promoted.split(ROWS), strict=True):
        window = Window("last", first_token=True)
        with steered(lm, edit_each_row(sae, some, amount, "add", site, window)):
            logits = lm.forward(lm.pad(prefix * len(some)), keep=1)[:, -1].double().cpu()
        found.append(score(logits, tokens))
    return torch.cat(found)


def score(logits: Float[Tensor, "latent vocab"], tokens: Int[Tensor, "latent count"]) -> Float[Tensor, " latent"]:
    """``(1 - smallest rank / vocabulary) * largest probability`` of each latent's tokens."""
    largest, at = logits.gather(-1, tokens).max(-1, keepdim=True)
    rank = (logits > largest).sum(-1)
    probability = logits.softmax(-1).gather(-1, tokens.gather(-1, at)).squeeze(-1)
    return (1 - rank / logits.shape[-1]) * probability


def _parts(latents: Sequence[int]) -> list[list[int]]:
    return [list(latents[start : start + ROWS]) for start in range(0, len(latents), ROWS)]
