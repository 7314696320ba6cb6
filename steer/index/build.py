"""``build_index``: one pass over text, then everything that an index holds of each latent. Killed at any moment, the
same call goes on and ends with the same bytes.

The pass leaves the active latents of each token in files sorted by latent (``steer.index.chunks``). The tables are then
computed latent by latent from all of a latent's activity at once, so examples, strata and counts are exact, not
estimates of a stream; what is in memory is bounded by ``IndexConfig.chunk_hits``.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from saes import SAE
from steer.activations.identity import require_same, revision, tokenizer_digest, weights_digest
from steer.activations.sources.source import Position, Source
from steer.errors import DataError, OutputError, PlanError
from steer.files import LOCK, check_output, claimed, writing
from steer.index.chunks import (
    Chunks,
    Corpus,
    Hits,
    State,
    add_chunk,
    read_state,
    remove_building,
    write_state,
)
from steer.index.columns import Columns
from steer.index.config import DEFAULT, IndexConfig
from steer.index.info import IndexInfo, read_info, write_info
from steer.index.layout import (
    COLUMNS,
    CORPUS,
    INFO,
    LATENTS,
    META,
    POSITIONS,
    ROLES,
    USER,
)
from steer.index.leftovers import BUILDING, is_temporary, remove_temporary, removed_if_empty
from steer.index.read import FeatureIndex
from steer.index.tables import Tables
from steer.index.text_pass import Read, Reader
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.plans.digests import of_sae
from steer.progress import Progress, Silent
from steer.search.label_vectors import FOLDER as VECTORS

_ANEW = "replace it with overwrite (--overwrite), which keeps its notes"


@dataclass(frozen=True)
class _Build:
    """What is built of what, and where."""

    lm: LanguageModel
    sae: SAE
    """On the model's device."""
    source: Source
    site: Site
    config: IndexConfig
    folder: Path
    show: Progress


def build_index(
    lm: LanguageModel,
    sae: SAE,
    source: Source,
    folder: str | Path,
    config: IndexConfig = DEFAULT,
    site: Site | str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> FeatureIndex:
    """Build the index of an SAE on a text, or go on with one that was interrupted; a finished one is opened.

    ``site`` is where the SAE reads; None: where its config says. With ``overwrite`` an index of something else is
    replaced, but for the user's notes.

    Raises:
        DataError: the source cannot be read, no token of it counts, an activation is not finite, or the folder holds
            a build of something else; the message names the field.
        PlanError: the SAE does not fit the model, or does not say where it reads.
        OutputError: the folder cannot be written to, holds something else, or another run writes to it.
        SiteError: the model lacks the site.
    """
    folder, show = Path(folder), progress or Silent()
    site = _fitting(lm, sae, site)
    if lm.attachments:
        raise DataError("The model is steered, which the index would not tell. Build it outside of that block.")
    identity = _identity(lm, sae, source, site, config)
    check_output(folder, overwrite=overwrite or _is_ours(folder))
    with removed_if_empty(folder), claimed(folder):
        state = _begun(folder, identity, overwrite)
        if state is not None:
            build = _Build(lm, sae.on(lm.device), source, site, config, folder, show)
            if not state.read:
                with _forgotten_if_nothing_read(folder):
                    state = _read(build, state)
            _tabulate(build, state)
        remove_building(folder)
    return FeatureIndex.open(folder)


def _tabulate(build: _Build, state: State) -> None:
    """Write all that an index holds, from what was read; ``index.json`` is the last of it."""
    folder = build.folder
    if not state.files:
        _remove_replaced(folder)
    chunks = Chunks(folder, state)
    tables = Tables(build.lm, build.sae, build.config, folder, chunks, chunks.corpus())
    state, columns = tables.written(state, build.show)
    with build.show.stage("words and columns"):
        tables.words()
        for name, values in columns.items():
            Columns(folder, tables.sizes.d_sae).add(name, values, {"by": "steer index build"})
    write_info(folder, _info(tables, state, build.source, build.site))


def _fitting(lm: LanguageModel, sae: SAE, site: Site | str | None) -> Site:
    if (place := site or sae.config.site) is None:
        raise PlanError("The SAE does not say where it reads. Name the site, such as 12.resid_post (--site).")
    if sae.config.d_in != lm.d_model:
        raise PlanError(
            f"The SAE reads activations of width {sae.config.d_in}, but {lm.name} has width {lm.d_model}. Use the "
            "model that it was trained on."
        )
    found = Site.parse(place)
    lm.layout.module(found)  # a site that is not there shows now
    return found


def _identity(lm: LanguageModel, sae: SAE, source: Source, site: Site, config: IndexConfig) -> dict[str, Any]:
    """What an index depends on, as JSON data. Reads all of a local text once, and all of the SAE's weights."""
    return {
        "weights": weights_digest(lm),
        "tokenizer": tokenizer_digest(lm),
        "sae": of_sae(sae),
        "dataset": source.digest(),
        "site": str(site),
        "config": config.to_json(),
    }


def _is_ours(folder: Path) -> bool:
    """Whether the folder holds an index, or the beginning of one."""
    return (folder / INFO).is_file() or (folder / BUILDING).is_dir()


def _begun(folder: Path, identity: dict[str, Any], overwrite: bool) -> State | None:
    """The state to go on from, or None where the index is there already; what a kill left half-written is removed.

    Raises:
        DataError: the folder holds a build of something else.
        OutputError: it holds something else, or cannot be written to.
    """
    ours = _is_ours(folder)
    if ours:
        remove_temporary(folder)
    if ours and not overwrite:
        if (state := read_state(folder)) is not None:
            require_same(state.identity, identity, f"The unfinished index in {folder}", _ANEW)
            return state
        if (folder / INFO).is_file():
            require_same(read_info(folder).provenance.get("identity", {}), identity, f"The index in {folder}", _ANEW)
            return None
    if overwrite:
        with suppress(DataError):  # one of the same, if it can be read, goes on: the end is the same
            if (state := read_state(folder)) is not None:
                require_same(state.identity, identity, f"The unfinished index in {folder}", _ANEW)
                return state
        _require_index_alone(folder)
        remove_building(folder)
    state = State(identity)
    write_state(folder, state)
    return state


@contextmanager
def _forgotten_if_nothing_read(folder: Path) -> Iterator[None]:
    """Where the text cannot be read from its beginning on, nothing is left to go on with."""
    try:
        yield
    except Exception:
        state = read_state(folder)
        if state is None or not state.chunks:
            remove_building(folder)
        raise


def _require_index_alone(folder: Path) -> None:
    """Nothing else than an index is ever removed.

    Raises:
        OutputError: the folder holds something else.
    """
    known = {INFO, META, USER, f"{USER}-wal", f"{USER}-shm", LOCK, CORPUS, LATENTS, COLUMNS, VECTORS, BUILDING}
    if strange := sorted(path.name for path in folder.iterdir() if path.name not in known and not is_temporary(path)):
        raise OutputError(f"{folder} holds {strange[0]}, which is no part of an index. Choose another folder.")


def _remove_replaced(folder: Path) -> None:
    """Remove the index that was there, but for the user's notes: only now, when the text has been read whole."""
    with writing(folder):
        for name in (INFO, META):
            (folder / name).unlink(missing_ok=True)
        for part in (CORPUS, LATENTS, COLUMNS):
            for path in (folder / part).glob("*"):
                path.unlink()


def _read(build: _Build, state: State) -> State:
    """The pass over the text, from where ``state`` is to its end.

    Raises:
        DataError: the source cannot be read, no token of it counts, or an activation is not finite.
    """
    folder, config, show = build.folder, build.config, build.show
    reader = Reader(build.lm, build.sae, build.site, config, state.medians)
    start: Position | None = state.chunks[-1].position if state.chunks else None
    with show.stage("reading", config.tokens):
        show.advance(state.tokens)
        windows = reader.windows(build.source, start, state.tokens)
        for part in _gathered(windows, config, show):
            hits = Hits(*(np.concatenate([getattr(one.hits, name) for one in part]) for name in vars(part[0].hits)))
            corpus = Corpus(
                *(np.concatenate([getattr(one.corpus, name) for one in part]) for name in vars(part[0].corpus))
            )
            state = replace(state, medians=reader.median)
            state = add_chunk(folder, state, hits, corpus, build.sae.config.d_sae, part[-1].position)
    state = replace(state, read=True)
    if not state.chunks or not Chunks(folder, state).corpus().counts.any():
        remove_building(folder)
        raise DataError(
            f"{build.source.name} holds no token that counts by the token policy. Give text of at least two tokens, or "
            "exclude fewer."
        )
    write_state(folder, state)
    return state


def _gathered(windows: Iterator[Read], config: IndexConfig, show: Progress) -> Iterator[list[Read]]:
    """Windows in lists that make one chunk each."""
    part: list[Read] = []
    tokens = hits = 0
    for one in windows:
        part.append(one)
        tokens, hits = tokens + len(one.corpus.tokens), hits + len(one.hits.values)
        show.advance(len(one.corpus.tokens))
        if tokens >= config.chunk_tokens or hits >= config.chunk_hits:
            yield part
            part, tokens, hits = [], 0, 0
    if part:
        yield part


def _info(tables: Tables, state: State, source: Source, site: Site) -> IndexInfo:
    """What goes into ``index.json``."""
    counted = tables.corpus.counts.astype(bool)
    lm, sae = tables.lm, tables.sae
    reader = Reader(lm, sae, site, tables.config)
    return IndexInfo(
        d_sae=tables.sizes.d_sae,
        examples=tables.sizes.examples,
        window=tables.sizes.window,
        shard_latents=tables.sizes.shard_latents,
        tokens=len(counted),
        counted=int(counted.sum()),
        documents=len(tables.corpus.documents),
        vocabulary=tables.vocabulary,
        histogram_top=tables.top,
        position_counts=tuple(np.bincount(tables.classes[counted], minlength=POSITIONS).tolist()),
        role_counts=tuple(np.bincount(tables.corpus.roles[counted], minlength=len(ROLES)).tolist()),
        provenance={
            "identity": state.identity,
            "sae": {"digest": state.identity["sae"], "site": str(site), "model": sae.config.model},
            "model": {"name": lm.name, "revision": revision(lm), "weights": state.identity["weights"]},
            "tokenizer": state.identity["tokenizer"],
            "dataset": {"name": Path(source.name).name, "digest": state.identity["dataset"]},
            "policy": state.identity["config"]["policy"],
            "context_size": reader.rules.context_size,
            "excluded_ids": sorted(reader.rules.excluded | reader.never),
            "median_norm": state.medians,
            "rendering": tables.renderer.joining,
            "logit_lens": tables.lens_about,
            "coactivation": "n_ij / sqrt(n_i n_j), counted on "
            + (f"one token in {tables.one_in}, drawn by a hash of its place" if tables.one_in > 1 else "all tokens"),
        },
        files=dict(state.files or {}),
    )
