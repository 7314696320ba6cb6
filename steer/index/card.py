"""What is known of one latent."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped, UInt32

from steer.files import finite
from steer.index.labels import Label
from steer.index.layout import EMPTY, NONE_ID, TOP
from steer.index.user import Note

Pieces = Callable[[Sequence[int]], list[str]]
"""Token ids as texts that join to the text of the whole (``steer.index.render``)."""


@dataclass(frozen=True)
class Window:
    """Tokens around a place where a latent fires."""

    token_ids: UInt32[np.ndarray, " token"]
    activations: Float32[np.ndarray, " token"]
    """Of the latent on each of them, to 1 in 255 of its largest; 0 on tokens that do not count."""
    peak: int
    """Place in the window of the strongest token."""
    max: float
    """Activation there, exactly."""
    document: int
    """Number of the document that the strongest token is of."""
    offset: int
    """Place of the window's first token in the corpus."""
    stratum: int
    """0: among the strongest; s: a sample of documents whose peak is above 2^-s of the latent's maximum, and at most
    2^(1-s) of it (the last stratum: anything below)."""


@dataclass(frozen=True)
class Card:
    """What an index knows of a latent."""

    latent: int
    """Its number."""
    windows: tuple[Window, ...]
    """The strongest first, then samples of the strata, each from another document."""
    histogram: UInt32[np.ndarray, " bin"]
    """Tokens by activation."""
    edges: Float32[np.ndarray, " edge"]
    """Limits of the histogram's bins, one more than bins, evenly spaced in the logarithm."""
    promoted: tuple[tuple[int, float], ...]
    """Token ids and logits per unit of the decoder's row, the largest first; none where the index has no logit lens."""
    suppressed: tuple[tuple[int, float], ...]
    """The same for the smallest."""
    coactive: tuple[tuple[int, float], ...]
    """Latents that fire on the same tokens, and the cosine of the 0/1 vectors of where they fire."""
    similar: tuple[tuple[int, float], ...]
    """Latents of like decoder rows, and the cosine of the two."""
    columns: Mapping[str, float]
    """Figures by name: density, max, mean, and those that were added."""
    by_position: Mapping[str, float]
    """Fraction of tokens that it fires on, by place in the row; places with no tokens are left out."""
    by_role: Mapping[str, float]
    """The same by whose words they are; roles with no tokens are left out."""
    labels: tuple[Label, ...]
    notes: tuple[Note, ...]
    tags: tuple[str, ...]

    @property
    def fires(self) -> bool:
        """Whether it was active on any token of the corpus."""
        return bool(self.windows)

    def to_json(self, pieces: Pieces | None = None) -> dict[str, Any]:
        """The card as JSON data; with ``pieces``, texts of tokens stand beside their ids.

        What is not finite, as a figure that a latent has none of or where an array is damaged, is None.
        """
        found: dict[str, Any] = {"latent": self.latent, "fires": self.fires}
        found["windows"] = [_window_json(window, pieces) for window in self.windows]
        found["histogram"] = {"counts": self.histogram.tolist(), "edges": [float(edge) for edge in self.edges]}
        for name in ("promoted", "suppressed"):
            rows = getattr(self, name)
            found[name] = [
                {"token": token, "logit": value, **({} if pieces is None else {"text": pieces([token])[0]})}
                for token, value in rows
            ]
        for name in ("coactive", "similar"):
            found[name] = [{"latent": latent, "cosine": value} for latent, value in getattr(self, name)]
        found["columns"] = dict(self.columns)
        found["by_position"], found["by_role"] = dict(self.by_position), dict(self.by_role)
        found["labels"] = [asdict(label) for label in self.labels]
        found["notes"] = [asdict(note) for note in self.notes]
        found["tags"] = list(self.tags)
        plain: dict[str, Any] = finite(found)
        return plain


def windows_of(
    row: Mapping[str, np.ndarray], tokens: Shaped[np.ndarray, " token"], documents: Shaped[np.ndarray, " document"]
) -> tuple[Window, ...]:
    """The windows of a latent from its ``row`` of the arrays ``ex_*`` (``steer.index.layout.arrays``), the index's
    ``tokens``, and the places in them at which ``documents`` begin.
    """
    places = np.flatnonzero(row["ex_stratum"] != EMPTY)
    starts, lengths = row["ex_off"][places].astype(np.int64), row["ex_len"][places].tolist()
    peaks = row["ex_peak"][places]
    numbers = np.searchsorted(documents, starts + peaks, side="right") - 1
    within = starts[:, None] + np.arange(row["ex_act"].shape[1])
    ids = tokens[np.minimum(within, len(tokens) - 1)].astype(np.uint32)
    with np.errstate(invalid="ignore"):  # a damaged scale gives NaN, which cards show as not known
        activations = row["ex_act"][places] * row["ex_scale"]
    rows = zip(
        ids,
        activations,
        lengths,
        peaks.tolist(),
        row["ex_max"][places].tolist(),
        numbers.tolist(),
        starts.tolist(),
        (row["ex_stratum"][places] - np.uint8(TOP)).tolist(),
        strict=True,
    )
    return tuple(Window(own[:length], values[:length], *rest) for own, values, length, *rest in rows)


def with_ids(ids: Shaped[np.ndarray, " n"], values: Shaped[np.ndarray, " n"]) -> tuple[tuple[int, float], ...]:
    """Ids of tokens or latents with their figures, without the entries that are none."""
    both = zip(ids.tolist(), values.astype(np.float32).tolist(), strict=True)
    return tuple(one for one in both if one[0] != NONE_ID)


def _window_json(window: Window, pieces: Pieces | None) -> dict[str, Any]:
    ids = window.token_ids.tolist()
    found = {
        "token_ids": ids,
        "activations": [round(float(value), 6) for value in window.activations],
        "peak": window.peak,
        "max": window.max,
        "document": window.document,
        "offset": window.offset,
        "stratum": window.stratum,
    }
    return found if pieces is None else found | {"texts": pieces(ids)}
