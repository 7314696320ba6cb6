"""An index of random contents and true shape, for measuring and for trying out what reads an index."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from saes import SAE
from steer.activations.identity import tokenizer_digest, weights_digest
from steer.files import check_output, claimed
from steer.index.columns import Columns
from steer.index.info import File, IndexInfo, write_array, write_info
from steer.index.labels import Label, Labels, write_meta
from steer.index.layout import (
    BINS,
    EMPTY,
    LOGITS,
    NEIGHBOURS,
    POSITIONS,
    ROLES,
    STRATA,
    TOP,
    Sizes,
    arrays,
    shard_file,
    token_bytes,
)
from steer.index.render import Renderer
from steer.models.model import LanguageModel
from steer.plans.digests import of_sae

_DOCUMENT = 256  # tokens
_SYLLABLES = ("ba", "du", "ke", "lo", "mi", "na", "po", "ri", "su", "ta", "ve", "zo", "shan", "tor", "lim", "gra")


def synthetic_index(
    folder: str | Path,
    d_sae: int,
    examples: int = 45,
    window: int = 64,
    tokens: int = 10_000_000,
    vocabulary: int = 50_000,
    labels: bool = True,
    seed: int = 0,
    shard_latents: int = 32_768,
    sae: SAE | None = None,
    lm: LanguageModel | None = None,
) -> Path:
    """Write an index whose contents are drawn from ``seed``, as large as a true one; returns the folder.

    With ``sae`` and ``lm`` it carries their digests, and opens with them.

    Raises:
        OutputError: the folder is not empty or cannot be written to.
        DataError: a size cannot be one.
    """
    folder, sizes = Path(folder), Sizes(d_sae, examples, window, shard_latents)
    if lm is not None and lm.vocabulary is not None:
        vocabulary = lm.vocabulary
    check_output(folder, overwrite=False)
    rng = np.random.default_rng(seed)
    with claimed(folder):
        files = _corpus(folder, tokens, vocabulary, rng, lm)
        for shard in sizes.shards:
            for name, values in _arrays(sizes, shard, tokens, vocabulary, rng).items():
                path = shard_file(name, shard)
                files[path] = write_array(folder, path, values)
        write_meta(folder, ((latent, words) for latent, words in enumerate(_words(d_sae, 12, rng))))
        _columns(folder, d_sae, rng)
        info = IndexInfo(
            d_sae=d_sae,
            examples=examples,
            window=window,
            shard_latents=shard_latents,
            tokens=tokens,
            counted=tokens,
            documents=-(-tokens // _DOCUMENT),
            vocabulary=vocabulary,
            histogram_top=128.0,
            position_counts=(tokens // POSITIONS,) * POSITIONS,
            role_counts=(0,) * (len(ROLES) - 1) + (tokens,),
            provenance=_provenance(seed, sae, lm),
            files=files,
        )
        write_info(folder, info)
    if labels:
        made = enumerate(_words(d_sae, 8, rng))
        Labels(folder, d_sae).add(Label(latent, text, "synthetic") for latent, text in made)
    return folder


def _provenance(seed: int, sae: SAE | None, lm: LanguageModel | None) -> dict[str, Any]:
    return {
        "synthetic": True,
        "seed": seed,
        "sae": {"digest": None if sae is None else of_sae(sae)},
        "model": {"name": None if lm is None else lm.name, "weights": None if lm is None else weights_digest(lm)},
        "rendering": "plain" if lm is None else Renderer.of(lm.tokenizer).joining,
        "tokenizer": None if lm is None else tokenizer_digest(lm),
    }


def _corpus(
    folder: Path, tokens: int, vocabulary: int, rng: np.random.Generator, lm: LanguageModel | None
) -> dict[str, File]:
    kind = np.uint16 if token_bytes(vocabulary) == 2 else np.uint32
    renderer = Renderer.of(lm.tokenizer) if lm is not None else Renderer(lambda token: f" t{token}".encode(), "plain")
    table, table_offsets = renderer.table(vocabulary)
    starts = np.append(np.arange(0, tokens, _DOCUMENT), tokens)
    contents = {
        "tokens": rng.integers(0, vocabulary, tokens, dtype=kind),
        "roles": np.full(tokens, ROLES.index("text"), dtype=np.uint8),
        "counts": np.packbits(np.ones(tokens, dtype=bool)),
        "rows": starts,
        "vocabulary": table,
        "vocabulary_offsets": table_offsets,
        "documents": starts,
    }
    return {f"corpus/{name}.npy": write_array(folder, f"corpus/{name}.npy", one) for name, one in contents.items()}


def _arrays(
    sizes: Sizes, shard: range, tokens: int, vocabulary: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    n, count, width = sizes.examples, len(shard), min(sizes.window, tokens, _DOCUMENT)
    stratum = np.r_[np.full(sizes.top, TOP), TOP + 1 + np.arange(n - sizes.top) % STRATA].astype(np.uint8)
    fires = rng.random(count) > 0.02  # the others are dead
    documents = max(1, tokens // _DOCUMENT)
    acts = rng.integers(0, 256, (count, n, sizes.window), dtype=np.uint8)
    acts[acts < 200] = 0
    peak = rng.integers(0, width, (count, n))
    acts[:, :, width:] = 0
    np.put_along_axis(acts, peak[:, :, None], 255, axis=2)
    top = np.sort(rng.gamma(2.0, 4.0, (count, n)), axis=1)[:, ::-1]
    ids = {name: rng.integers(0, sizes.d_sae, (count, NEIGHBOURS)) for name in ("coact_id", "decnn_id")}
    values = {name: -np.sort(-rng.random((count, NEIGHBOURS)), axis=1) for name in ("coact_v", "decnn_v")}
    made = {
        "ex_off": rng.integers(0, documents, (count, n)) * _DOCUMENT,
        "ex_len": np.full((count, n), width) * fires[:, None],
        "ex_peak": peak,
        "ex_max": top * fires[:, None],
        "ex_stratum": np.where(fires[:, None], stratum, EMPTY),
        "ex_act": acts * fires[:, None, None].astype(np.uint8),
        "ex_scale": top[:, 0] / 255 * fires,
        "hist": rng.integers(0, 5000, (count, BINS)) * fires[:, None],
        "pos_count": rng.integers(0, 1000, (count, POSITIONS)) * fires[:, None],
        "role_count": rng.integers(0, 1000, (count, len(ROLES))) * fires[:, None],
        "logit_id": rng.integers(0, vocabulary, (count, 2 * LOGITS)),
        "logit_v": -np.sort(-rng.normal(size=(count, 2 * LOGITS)), axis=1),
        **ids,
        **values,
    }
    return {name: made[name].astype(array.dtype) for name, array in arrays(sizes).items()}


def _columns(folder: Path, d_sae: int, rng: np.random.Generator) -> None:
    columns, made_by = Columns(folder, d_sae), {"by": "synthetic_index"}
    density = 10.0 ** rng.uniform(-6, -1, d_sae)
    for name, values in {
        "density": density,
        "max": rng.gamma(2.0, 8.0, d_sae),
        "mean": rng.gamma(2.0, 2.0, d_sae),
        "documents": np.minimum(1.0, 30 * density),
        "peak_tokens": rng.integers(1, 20, d_sae).astype(np.float32),
        **{f"density_{role}": density * rng.random(d_sae) for role in ROLES},
    }.items():
        columns.add(name, values, made_by)


def _words(count: int, each: int, rng: np.random.Generator) -> Iterator[str]:
    """Texts of made-up words, of which few are common and most are rare, as in a language."""
    syllables = np.array(_SYLLABLES)
    parts = rng.integers(0, len(syllables), (20_000, 3))
    vocabulary = ["".join(syllables[row]) for row in parts]
    for _ in range(count):
        ranks = (len(vocabulary) * rng.random(each) ** 3).astype(int)
        yield " ".join(vocabulary[rank] for rank in ranks)
