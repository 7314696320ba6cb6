"""A small text of conversations and plain documents, and what an index of it must say, computed the long way."""

import json
from dataclasses import dataclass

import numpy as np

from steer.activations.policy import TokenPolicy
from steer.activations.rows import Rules, token_rows
from steer.activations.sources.opened import open_source
from steer.index.config import IndexConfig
from steer.models.site import Site

WORDS = ["the", "cat", "sat", "on", "a", "mat", "while", "it", "rained", "and", "nobody", "came", "to", "see"]
SMALL = IndexConfig(
    examples=9, window=12, chunk_tokens=300, window_rows=8, forward_tokens=256, shard_latents=40, chunk_hits=500
)


def write_text(path, documents=40, seed=0):
    """A JSON-lines file of conversations (two thirds) and plain texts."""
    rng = np.random.default_rng(seed)
    lines = []
    for number in range(documents):
        said = [" ".join(rng.choice(WORDS, rng.integers(1, 7))) for _ in range(3)]
        turns = [
            {"role": role, "content": text} for role, text in zip(("system", "user", "assistant"), said, strict=True)
        ]
        lines.append({"text": said[0]} if number % 3 == 0 else {"messages": turns[number % 2 :]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@dataclass
class Truth:
    """Everything about every token, row by row."""

    acts: np.ndarray  # [token, d_sae], 0 where a token does not count
    tokens: np.ndarray
    counts: np.ndarray
    roles: np.ndarray
    place: np.ndarray  # in its row
    document: np.ndarray
    row: np.ndarray


def truth(lm, sae, path, policy: TokenPolicy, tokens=None) -> Truth:
    """Each row alone through the model and the SAE."""
    rules = Rules.of(policy, lm, by_role=True)
    parts, document, left = [], -1, tokens
    for number, (row, _) in enumerate(token_rows(lm, open_source(path), rules)):
        ids = row.ids if left is None else row.ids[:left]
        if not ids:
            break
        left = None if left is None else left - len(ids)
        x = lm.activations(lm.pad([ids]), [sae.config.site])[Site.parse(sae.config.site)][0]
        counts = np.array([flag and i != lm.tokenizer.bos_token_id for i, flag in zip(ids, row.counts, strict=False)])
        of = []
        for place in range(len(ids)):
            document += place in row.begins
            of.append(document)
        acts = sae.encode(x).to_dense().numpy() * counts[:, None]
        roles = [{-1: 3, -2: 4}.get(role, role) for role in row.roles[: len(ids)]]
        parts.append((acts, ids, counts, roles, range(len(ids)), of, [number] * len(ids)))
    return Truth(*(np.concatenate([np.asarray(one) for one in column]) for column in zip(*parts, strict=True)))
