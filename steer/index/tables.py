"""The tables of an index, computed from what the pass over the text has left on disk."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors.numpy import load_file, save
from torch import Tensor

from saes import SAE
from steer.errors import ModelError
from steer.files import write_bytes
from steer.index.chunks import Chunks, Corpus, State, write_state
from steer.index.config import IndexConfig
from steer.index.counts import column_arrays, count_arrays, histogram_top, position_classes
from steer.index.examples import Peaks, Places, chosen, example_arrays
from steer.index.info import File, write_array
from steer.index.labels import write_meta
from steer.index.layout import CORPUS, LOGITS, NONE_ID, Sizes, arrays, shard_file, token_bytes
from steer.index.leftovers import BUILDING
from steer.index.neighbours import CoActivation, sampled, similar
from steer.index.render import Renderer
from steer.index.shards import open_arrays
from steer.models.lens import Lens
from steer.models.model import LanguageModel
from steer.progress import Progress
from steer.search.direction import row_norms

_WORDS = 10  # promoted tokens, and as many peak tokens, that word search knows of a latent

_HELD = 2**25  # active latents of tokens that the co-activation is counted on at most, about 37 bytes each

Arrays = dict[str, np.ndarray]


@dataclass
class Tables:
    """What the tables of all latents are computed from."""

    lm: LanguageModel
    sae: SAE
    config: IndexConfig
    folder: Path
    chunks: Chunks
    corpus: Corpus

    def __post_init__(self) -> None:
        self.sizes: Sizes = self.config.sizes(self.sae.config.d_sae)
        self.places = Places.of(self.corpus)
        self.classes = position_classes(self.corpus)
        self.vocabulary = self.lm.vocabulary or int(self.corpus.tokens.max()) + 1
        self.one_in = _one_in(self.chunks, len(self.corpus.tokens), self.config.pairs)
        self.renderer = Renderer.of(self.lm.tokenizer)
        self.decoder = self.sae.W_dec.detach()
        self.lens, self.lens_about = lens_of(self.lm, self.sae)

    def written(self, state: State, show: Progress) -> tuple[State, Arrays]:
        """Write the corpus and the arrays of all latents; returns the columns, too. Files that are done are kept."""
        files = dict(state.files or {})
        if not files:
            files = self.write_corpus()
            state = _kept(self.folder, state, files)
        norms = row_norms(self.decoder)
        coactive: CoActivation | None = None
        parts = []
        with show.stage("latents", self.sizes.d_sae):
            for shard in self.sizes.shards:
                kept = self.folder / BUILDING / f"columns-{shard.start:08d}.safetensors"
                if shard_file("decnn_v", shard) not in files:
                    coactive = coactive or CoActivation(
                        self.chunks.each(partial(sampled, one_in=self.one_in)),
                        self.sizes.d_sae,
                        len(self.corpus.tokens),
                    )
                    made, columns = self.shard(shard, coactive, norms, show)
                    write_bytes(kept, save(columns))
                    files |= {
                        (path := shard_file(name, shard)): write_array(self.folder, path, made[name].astype(one.dtype))
                        for name, one in arrays(self.sizes).items()
                    }
                    state = _kept(self.folder, state, files)
                else:
                    show.advance(len(shard))
                parts.append(load_file(kept))
        return state, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def shard(
        self, shard: range, coactive: CoActivation, norms: Float[Tensor, " d_sae"], show: Progress
    ) -> tuple[Arrays, Arrays]:
        """Arrays and columns of the latents of one file."""
        blocks = [self.block(block, show) for block in self.chunks.blocks(shard, self.config.chunk_hits)]
        made, columns = (
            {name: np.concatenate([one[i][name] for one in blocks]) for name in blocks[0][i]} for i in (0, 1)
        )
        made["decnn_id"], made["decnn_v"] = similar(self.decoder, shard, norms)
        made["coact_id"], made["coact_v"] = coactive.neighbours(shard)
        made["logit_id"] = np.full((len(shard), 2 * LOGITS), NONE_ID)
        made["logit_v"] = np.zeros((len(shard), 2 * LOGITS))
        if self.lens is not None:
            ids, values = self.lens.extremes(self.decoder[shard.start : shard.stop], LOGITS, NONE_ID)
            made["logit_id"], made["logit_v"] = ids.numpy(), values.clamp(-65_504, 65_504).numpy()
        return made, columns

    def block(self, block: range, show: Progress) -> tuple[Arrays, Arrays]:
        """Arrays and columns of some latents that come from where they fire."""
        hits = self.chunks.hits(block)
        peaks = Peaks.of(hits, self.places)
        picked = chosen(peaks, self.places, self.sizes, self.config.per_peak_token, self.config.seed)
        made = example_arrays(hits, block, picked, self.places, self.sizes)
        made |= count_arrays(hits, block, self.corpus, self.classes, self.top)
        show.advance(len(block))
        return made, column_arrays(hits, block, peaks, picked, self.corpus, made["role_count"])

    @property
    def top(self) -> float:
        """Upper end of the histogram."""
        return histogram_top(self.chunks.largest or 1.0)

    def write_corpus(self) -> dict[str, File]:
        """Write the tokens, whose they are, which count (in bits), borders of rows and documents, the vocabulary."""
        end = len(self.corpus.tokens)
        table, table_offsets = self.renderer.table(self.vocabulary)
        contents = {
            "tokens": self.corpus.tokens.astype(np.uint16 if token_bytes(self.vocabulary) == 2 else np.uint32),
            "roles": self.corpus.roles,
            "counts": np.packbits(self.corpus.counts.astype(bool)),
            "rows": np.append(self.corpus.rows, end),
            "documents": np.append(self.corpus.documents, end),
            "vocabulary": table,
            "vocabulary_offsets": table_offsets,
        }
        return {(path := f"{CORPUS}/{name}.npy"): write_array(self.folder, path, one) for name, one in contents.items()}

    def words(self) -> None:
        """Write ``meta.sqlite``: for each latent, the texts of the tokens that it promotes and peaks on."""
        stored, renderer = open_arrays(self.folder, self.sizes), self.renderer
        known: dict[int, str] = {}

        def text(token: int) -> str:
            if token not in known:
                known[token] = renderer.token_bytes(token).decode("utf-8", "ignore").strip()
            return known[token]

        def words() -> Iterator[tuple[int, str]]:
            for latent in range(self.sizes.d_sae):
                promoted = stored["logit_id"].row(latent)[:_WORDS].tolist()
                there = stored["ex_stratum"].row(latent) != 0
                at = (stored["ex_off"].row(latent).astype(np.int64) + stored["ex_peak"].row(latent))[there]
                peaks = list(dict.fromkeys(self.corpus.tokens[at].tolist()))[:_WORDS]
                found = dict.fromkeys(text(token) for token in [*promoted, *peaks] if token != NONE_ID)
                yield latent, " ".join(word for word in found if word)

        write_meta(self.folder, words())


def _kept(folder: Path, state: State, files: dict[str, File]) -> State:
    state = replace(state, files=dict(files))
    write_state(folder, state)
    return state


def _one_in(chunks: Chunks, tokens: int, pairs: int) -> int:
    """One token in so many is counted for the co-activation, so that there are about ``pairs`` pairs at most."""
    hits = float(chunks.totals.sum())
    return max(1, int(np.ceil(max(hits**2 / max(1, tokens) / pairs, hits / _HELD))))


def lens_of(lm: LanguageModel, sae: SAE) -> tuple[Lens | None, str]:
    """The logit lens of a model, and what it is, or why there is none."""
    if sae.config.width_out != lm.d_model:
        return None, f"none: the SAE writes {sae.config.width_out} dimensions, the residual stream has {lm.d_model}"
    try:
        lens = Lens.of(lm)
    except ModelError as error:
        return None, f"none: {error}"
    return lens, lens.about
