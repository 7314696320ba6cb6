"""The pass over the text: rows of tokens through the model and the SAE, and which latents are active where."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from saes import SAE
from steer.activations.reading import by_length, edited_error
from steer.activations.rows import TEXT, Row, Rules, token_rows
from steer.activations.sources.source import Position, Source
from steer.errors import DataError
from steer.index.chunks import Corpus, Hits
from steer.index.config import IndexConfig
from steer.index.layout import ROLES
from steer.models.model import LanguageModel
from steer.models.roles import TEMPLATE
from steer.models.site import Site

_TEMPLATE, _TEXT = ROLES.index("template"), ROLES.index("text")


@dataclass(frozen=True)
class Read:
    """What one window of rows gives."""

    hits: Hits
    corpus: Corpus
    position: Position
    """After its last row."""


class Reader:
    """Reads a source window by window; the median norm of the first pass decides which tokens are outliers."""

    def __init__(
        self, lm: LanguageModel, sae: SAE, site: Site, config: IndexConfig, median: float | None = None
    ) -> None:
        self._lm, self._sae, self._site, self._config = lm, sae, site, config
        self.rules = Rules.of(config.policy, lm, by_role=config.roles)
        begin = lm.tokenizer.bos_token_id
        self.never = frozenset([begin] if begin is not None and config.policy.exclude_first else [])
        """Tokens that do not count wherever they are, besides those of the policy."""
        self.median = median
        """The median norm, once it is known."""

    def windows(self, source: Source, start: Position | None, tokens: int) -> Iterator[Read]:
        """What is read from ``start``, where the corpus has ``tokens`` tokens.

        Raises:
            DataError: the source cannot be read, an activation is not finite, or the model is edited meanwhile.
        """
        rows = token_rows(self._lm, source, self.rules, start)
        most = self._config.tokens
        while (most is None or tokens < most) and (window := list(islice(rows, self._config.window_rows))):
            taken, at = [], tokens
            for row, position in window:
                if most is not None and at >= most:
                    break
                cut = row if most is None else _cut(row, most - at)
                taken.append((cut, position))  # an empty document is a row of no tokens, which does no harm
                at += len(cut.ids)
            if at >= 2**32:
                raise DataError("An index has room for 2^32 tokens. Read fewer of them: --tokens 4000000000.")
            yield self._read([row for row, _ in taken], tokens, taken[-1][1])
            tokens = at

    @torch.inference_mode()
    def _read(self, rows: Sequence[Row], first: int, position: Position) -> Read:
        lengths = [len(row.ids) for row in rows]
        starts = first + np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        counts = np.array(
            [flag and i not in self.never for row in rows for i, flag in zip(row.ids, row.counts, strict=True)]
        )
        live = [i for i, row in enumerate(rows) if any(row.counts)]
        parts = []
        for batch in by_length([lengths[i] for i in live], self._config.forward_tokens):
            chosen = [live[i] for i in batch]
            parts.append(self.hits([rows[i].ids for i in chosen], starts[chosen], counts, first))
        empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
        latents, places, values = (np.concatenate(part) for part in zip(*(parts or [empty]), strict=True))
        begins = [start + place for row, start in zip(rows, starts, strict=True) for place in row.begins]
        corpus = Corpus(
            np.concatenate([row.ids for row in rows]).astype(np.uint32),
            np.concatenate([_roles(row) for row in rows]),
            counts,
            starts,
            np.array(begins, dtype=np.int64),
        )
        return Read(Hits(latents, places, values), corpus, position)

    def hits(
        self, rows: Sequence[list[int]], starts: np.ndarray, counts: np.ndarray, first: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hits of some rows that run together; tokens that turn out to be outliers are taken out of ``counts``."""
        lm, longest = self._lm, max(map(len, rows))
        with lm.lock:
            if lm.attachments:
                raise edited_error()
            x = lm.activations(lm.pad(rows), [self._site])[self._site].flatten(0, 1)
        # in the corpus, of each token of the padded batch; -1 for padding
        where = np.full((len(rows), longest), -1, dtype=np.int64)
        for number, row in enumerate(rows):
            where[number, longest - len(row) :] = starts[number] + np.arange(len(row))
        flat = where.reshape(-1)
        taken = np.nonzero((flat >= 0) & counts[np.maximum(flat - first, 0)])[0]
        places, x = flat[taken], x[torch.from_numpy(taken).to(x.device)]
        ordinary = self._ordinary(x)
        counts[places[~ordinary] - first] = False
        if not ordinary.all():
            places, x = places[ordinary], x[torch.from_numpy(ordinary).to(x.device)]
        codes = self._sae.encode(x.to(self._sae.W_dec.dtype))
        token, which = (codes.values > 0).nonzero(as_tuple=True)
        values = codes.values[token, which].float().cpu().numpy()
        if not np.isfinite(values).all() or not bool(x.isfinite().all()):
            raise _not_finite(self._site)
        return codes.indices[token, which].cpu().numpy().astype(np.int64), places[token.cpu().numpy()], values

    def _ordinary(self, x: torch.Tensor) -> np.ndarray:
        """Which tokens are no outliers by their norm; the first call fixes the median."""
        ratio = self._config.policy.max_norm_ratio
        if ratio is None or not len(x):
            return np.ones(len(x), dtype=bool)
        norms = x.float().norm(dim=-1)
        if self.median is None:
            self.median = float(norms.median())
            if not math.isfinite(self.median):
                raise _not_finite(self._site)
        return (~((norms > ratio * self.median) & norms.isfinite())).cpu().numpy()


def _not_finite(site: Site) -> DataError:
    return DataError(
        f"Activations at {site} are not finite. Check the model's weights and its dtype (float16 overflows easily)."
    )


def _cut(row: Row, length: int) -> Row:
    if len(row.ids) <= length:
        return row
    begins = tuple(place for place in row.begins if place < length)
    return Row(row.ids[:length], row.counts[:length], row.roles and row.roles[:length], begins)


def _roles(row: Row) -> np.ndarray:
    """Numbers in ``layout.ROLES``: the template's come after those of a conversation, and a plain text's last."""
    if row.roles is None:
        return np.full(len(row.ids), _TEXT, dtype=np.uint8)
    said = np.array(row.roles, dtype=np.int64)
    said[said == TEMPLATE], said[said == TEXT] = _TEMPLATE, _TEXT
    return said.astype(np.uint8)
