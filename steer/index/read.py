"""``FeatureIndex``: an index on disk, opened at once whatever its size."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
from jaxtyping import Shaped

from saes import SAE
from steer.checks import require_whole
from steer.errors import DataError
from steer.files import claimed
from steer.index.card import Card, windows_of, with_ids
from steer.index.columns import Columns
from steer.index.info import IndexInfo, check_files, check_model, check_sae, read_info
from steer.index.labels import Label, Labels
from steer.index.layout import (
    BUILT_COLUMNS,
    COLUMNS,
    LOGITS,
    ROLES,
    USER,
    check_latent,
    corpus_file,
    histogram_edges,
    position_names,
)
from steer.index.render import Renderer
from steer.index.shards import ShardedArray, mapped, open_arrays
from steer.index.user import Note, UserNotes
from steer.models.model import LanguageModel
from steer.search.hits import SearchResult
from steer.search.meaning import Embedder
from steer.search.query import Query
from steer.search.run import search


@dataclass(frozen=True)
class FeatureIndex:
    """What each latent of an SAE does on a text: cards, figures to filter and sort by, labels, notes.

    Arrays are memory-mapped and nothing is read before it is asked for. Several processes may read an index while
    another one adds notes, labels or columns.
    """

    folder: Path
    info: IndexInfo
    """What the index was made of."""
    columns: Columns
    """Figures by name, each of shape [d_sae]; NaN where one is not known."""
    user: UserNotes
    """The user's notes, tags and lists."""
    renderer: Renderer
    """Renders token ids as text, from the index's own table of bytes."""
    sae: SAE | None = None
    """The SAE, where it was given."""
    lm: LanguageModel | None = None
    """The model, where it was given."""
    _labels: Labels = field(repr=False, kw_only=True)
    _arrays: dict[str, ShardedArray] = field(repr=False, kw_only=True)
    _tokens: np.ndarray = field(repr=False, kw_only=True)
    _documents: np.ndarray = field(repr=False, kw_only=True)
    _checked: "list[ref[SAE | LanguageModel]]" = field(default_factory=list, repr=False, compare=False, kw_only=True)
    """SAEs and models that were found to be those of the index."""

    @classmethod
    def open(
        cls,
        folder: str | Path,
        sae: SAE | None = None,
        lm: LanguageModel | None = None,
        user: str | Path | None = None,
        note: Callable[[str], None] | None = None,
    ) -> "FeatureIndex":
        """Open an index. With ``sae`` and ``lm``, it is checked that it was built with them.

        ``user`` is the file for notes; None: ``user.sqlite`` in the index. ``note`` is told what does not work here.

        Raises:
            DataError: the folder holds no index, or a file is missing, truncated or damaged; it is named.
            IndexMismatchError: the index was built with another SAE, model or tokenizer.
        """
        folder = Path(folder)
        info = read_info(folder)
        check_files(folder, info.files, contents=False)
        columns = Columns(folder, info.d_sae)
        if missing := [name for name in BUILT_COLUMNS if name not in columns]:
            raise DataError(f"{folder / COLUMNS / missing[0]}.npy is missing. Copy the index again, or build it again.")
        if sae is not None:
            check_sae(info, sae, folder)
        if lm is not None:
            check_model(info, lm, folder)
        return cls(
            folder,
            info,
            columns,
            UserNotes(Path(user) if user is not None else folder / USER, info.d_sae),
            _renderer(folder, info),
            sae,
            lm,
            _labels=Labels(folder, info.d_sae, note),
            _arrays=open_arrays(folder, info.sizes),
            _tokens=mapped(corpus_file(folder, "tokens")),
            _documents=mapped(corpus_file(folder, "documents")),
        )

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.info.d_sae

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Digests and names of SAE, model, tokenizer and dataset, the token policy, how figures were computed."""
        return self.info.provenance

    def array(self, name: str) -> ShardedArray:
        """One of the arrays of ``steer.index.layout.arrays``, as it is stored."""
        return self._arrays[name]

    def add_column(self, name: str, values: Shaped[np.ndarray, " d_sae"], made_by: Mapping[str, Any]) -> None:
        """Add a figure for each latent, or another in its place; ``made_by`` says who computed it, as JSON data.

        Raises:
            DataError: the name or the shape cannot be one.
            OutputError: the index cannot be written to, or another process writes to it.
        """
        with claimed(self.folder):
            self.columns.add(name, values, made_by)

    def card(self, latent: int) -> Card:
        """All that is known of a latent.

        Raises:
            DataError: there is no such latent.
        """
        check_latent(latent, self.d_sae)
        row = {name: array.row(latent) for name, array in self._arrays.items()}
        return Card(
            latent=latent,
            windows=windows_of(row, self._tokens, self._documents),
            histogram=np.array(row["hist"]),
            edges=histogram_edges(self.info.histogram_top),
            promoted=with_ids(row["logit_id"][:LOGITS], row["logit_v"][:LOGITS]),
            suppressed=with_ids(row["logit_id"][LOGITS:], row["logit_v"][LOGITS:]),
            coactive=with_ids(row["coact_id"], row["coact_v"]),
            similar=with_ids(row["decnn_id"], row["decnn_v"]),
            columns={name: float(self.columns[name][latent]) for name in self.columns},
            by_position=_shares(position_names(), row["pos_count"], self.info.position_counts),
            by_role=_shares(ROLES, row["role_count"], self.info.role_counts),
            labels=tuple(self.labels(latent)),
            notes=tuple(self.notes(latent)),
            tags=tuple(self.user.tags(latent)),
        )

    def words(self, query: str, limit: int = 20) -> list[tuple[int, float]]:
        """Latents whose labels, promoted tokens or peak tokens hold words of ``query``, best first, with a score.

        The score is BM25 (FTS5's, the sign turned; a label's counts twice), larger for better. Of words that many
        labels or lists of tokens have, rows that hold all words of the query are ranked, and of one such word alone not
        all rows. Where FTS5 is missing or finds nothing, parts of words count by the number of those found.

        Raises:
            DataError: ``limit`` is below 1, or the database is damaged.
        """
        require_whole("limit", limit, DataError)
        return self._labels.words(query, limit)

    def labels(self, latent: int) -> list[Label]:
        """Labels of a latent, in the order in which they were added."""
        check_latent(latent, self.d_sae)
        return self._labels.of(latent)

    def all_labels(self) -> Iterable[Label]:
        """All labels, by latent."""
        return self._labels.all()

    def labelled(self) -> Shaped[np.ndarray, " d_sae"]:
        """For each latent, whether it has a label."""
        found = np.zeros(self.d_sae, dtype=bool)
        found[self._labels.labelled()] = True
        return found

    def add_labels(self, rows: Iterable[Label]) -> int:
        """Add labels, all or none; returns how many are new.

        Raises:
            DataError: a latent is out of range, or a label has no text or nobody who made it.
            OutputError: the index cannot be written to, or another process writes to it.
        """
        return self._labels.add(rows)

    def notes(self, latent: int) -> list[Note]:
        """The user's notes of a latent, oldest first."""
        check_latent(latent, self.d_sae)
        return self.user.notes(latent)

    def add_note(self, latent: int, text: str) -> Note:
        """Write a note; see ``UserNotes.add_note``."""
        return self.user.add_note(latent, text)

    def tag(self, latent: int, tag: str) -> None:
        """Put a tag on a latent; see ``UserNotes.tag``."""
        self.user.tag(latent, tag)

    def promoting(self, token_id: int, limit: int = 20) -> list[tuple[int, float]]:
        """Latents that have a token among those that they promote most, with its logit, the largest first.

        Raises:
            DataError: there is no such token, or ``limit`` is below 1.
        """
        return self._by_logit(token_id, limit, slice(0, LOGITS), -1.0)

    def suppressing(self, token_id: int, limit: int = 20) -> list[tuple[int, float]]:
        """The same for the tokens that they suppress most, the smallest logit first."""
        return self._by_logit(token_id, limit, slice(LOGITS, 2 * LOGITS), 1.0)

    def search(
        self,
        query: Query,
        lm: LanguageModel | None = None,
        sae: SAE | None = None,
        embedder: Embedder | None = None,
    ) -> SearchResult:
        """The latents that match a query best, and why; see ``steer.search.run.search``.

        ``lm`` and ``sae``: None: those that the index was opened with; others are compared with the index the first
        time. ``embedder`` is needed for ``meaning`` alone.

        Raises:
            IndexMismatchError: the index was built with another SAE, model or tokenizer.
            DataError: something that a part of the query needs is missing, malformed or too little.
            PlanError: the SAE does not fit the model, or does not say where it reads.
        """
        if sae is not None and self._unknown(sae, self.sae):
            check_sae(self.info, sae, self.folder)
            self._checked.append(ref(sae))
        if lm is not None and self._unknown(lm, self.lm):
            check_model(self.info, lm, self.folder)
            self._checked.append(ref(lm))
        return search(self, query, lm or self.lm, sae or self.sae, embedder)

    def _unknown(self, given: object, opened: object) -> bool:
        return given is not opened and all(one() is not given for one in self._checked)

    def _by_logit(self, token_id: int, limit: int, part: slice, sign: float) -> list[tuple[int, float]]:
        require_whole("token_id", token_id, DataError, least=0)
        require_whole("limit", limit, DataError)
        if token_id >= self.info.vocabulary:
            raise DataError(f"Token {token_id} is out of range: the model has {self.info.vocabulary} tokens.")
        latents, values = [], []
        blocks = zip(self._arrays["logit_id"].blocks(), self._arrays["logit_v"].blocks(), strict=True)
        for (first, ids), (_, logits) in blocks:
            rows, places = np.nonzero(ids[:, part] == token_id)
            latents.append(rows + first)
            values.append(logits[:, part][rows, places].astype(np.float32))
        every, value = np.concatenate(latents), np.concatenate(values)
        order = np.lexsort((every, sign * value))[:limit]
        return list(zip(every[order].tolist(), value[order].tolist(), strict=True))


def _renderer(folder: Path, info: IndexInfo) -> Renderer:
    table, offsets = (mapped(corpus_file(folder, name)) for name in ("vocabulary", "vocabulary_offsets"))
    return Renderer.of_table(table, offsets, info.provenance.get("rendering", "plain"))


def _shares(names: Iterable[str], counts: np.ndarray, of: Iterable[int]) -> dict[str, float]:
    return {name: count / total for name, count, total in zip(names, counts.tolist(), of, strict=True) if total}
