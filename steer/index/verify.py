"""Whether an index still says what the model and the SAE do: random cards are computed again."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saes import SAE
from steer.activations.reading import by_length
from steer.checks import require_whole
from steer.errors import DataError
from steer.index.info import check_files
from steer.index.layout import LOGITS, NONE_ID, corpus_file
from steer.index.neighbours import similar
from steer.index.read import FeatureIndex
from steer.index.shards import mapped
from steer.index.tables import lens_of
from steer.index.verify_counts import count_differences, counts_again, inconsistent_columns
from steer.models.lens import Lens
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.progress import Progress, Silent
from steer.search.direction import row_norms

_FORWARD_TOKENS = 8192
_SHARE = 0.02  # of a card's active tokens: near a tie for the k-th place, rounding decides who is active
_CLOSE = {torch.float32: 2e-3, torch.float64: 1e-3}  # of a latent's maximum, by the model's dtype
_COARSE = 4e-2  # for 16 bits
_COARSE_SHARE = 0.2  # of a latent's tokens, for 16 bits


@dataclass(frozen=True)
class Verified:
    """What was computed again, and what differs."""

    latents: tuple[int, ...]
    """Whose cards were computed again."""
    windows: int
    tokens: int
    """Tokens of those windows that are active there or here."""
    differences: tuple[str, ...]
    """What is not as the index says; none: it holds."""
    counted: int = 0
    """Latents whose counts over the whole text were computed again."""


@torch.no_grad()
def verify(
    folder: str | Path,
    lm: LanguageModel,
    sae: SAE,
    cards: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
    whole: bool = False,
) -> Verified:
    """Compare the hashes of all files, and columns with the counts that these hold; compute the windows, logits and
    decoder neighbours of random latents again, and with ``whole`` the counts of all latents over the whole text.

    Activations may differ by rounding, and by the 8 bits they are stored in.

    Raises:
        DataError: the folder holds no index, or a file was altered; it is named.
        IndexMismatchError: the index was built with another SAE, model or tokenizer.
    """
    require_whole("cards", cards, DataError)
    show = progress or Silent()
    index = FeatureIndex.open(folder, sae, lm)
    with show.stage("hashes"):
        check_files(index.folder, index.info.files, contents=True)
    live = np.flatnonzero(index.columns["density"] > 0)
    if not len(live):
        raise DataError(f"No latent of {folder} fires on its text, so no card can be computed again.")
    found = inconsistent_columns(index)
    picked = sorted(np.random.default_rng(seed).choice(live, min(cards, len(live)), replace=False).tolist())
    sae = sae.on(lm.device)
    with show.stage("cards", len(picked)):
        activations, norms, (lens, _) = _Activations(index, lm, sae, picked), row_norms(sae.W_dec), lens_of(lm, sae)
        windows = tokens = 0
        for column, latent in enumerate(picked):
            differs, compared, active = _windows(index, latent, activations, column, lm)
            found += differs + _weights(index, latent, sae, norms, lens)
            windows, tokens = windows + compared, tokens + active
            show.advance()
    if whole:
        kind = next(lm.model.parameters()).dtype
        share = _SHARE if kind in _CLOSE else _COARSE_SHARE
        found += count_differences(index, counts_again(index, lm, sae, show), share, _CLOSE.get(kind, _COARSE))
    return Verified(tuple(picked), windows, tokens, tuple(found), index.d_sae if whole else 0)


class _Activations:
    """Activations of some latents on the rows that hold their windows, by place in the corpus."""

    def __init__(self, index: FeatureIndex, lm: LanguageModel, sae: SAE, latents: list[int]) -> None:
        tokens, rows = (mapped(corpus_file(index.folder, name)) for name in ("tokens", "rows"))
        bits = mapped(corpus_file(index.folder, "counts"))
        offsets = [window.offset for latent in latents for window in index.card(latent).windows]
        needed = np.unique(np.searchsorted(rows, np.array(offsets), side="right") - 1)
        ids = [tokens[rows[row] : rows[row + 1]].astype(int).tolist() for row in needed]
        site = Site.parse(index.provenance.get("sae", {}).get("site", ""))
        wanted = torch.tensor(latents, device=lm.device)
        self._starts = rows[needed]
        self._values: dict[int, np.ndarray] = {}
        for batch in by_length([len(row) for row in ids], _FORWARD_TOKENS):
            given = lm.pad([ids[i] for i in batch])
            x = lm.activations(given, [site])[site]
            values = sae.activations_of(x.flatten(0, 1).to(sae.W_dec.dtype), wanted).reshape(*x.shape[:2], -1).float()
            for number, i in enumerate(batch):
                start = int(self._starts[i])
                own = values[number, x.shape[1] - len(ids[i]) :].cpu().numpy()
                self._values[start] = own * _counting(bits, start, len(ids[i]))[:, None]

    def of(self, column: int, offset: int, length: int) -> np.ndarray:
        """Of one latent on the tokens of a window."""
        start = int(self._starts[np.searchsorted(self._starts, offset, side="right") - 1])
        return self._values[start][offset - start : offset - start + length, column]


def _counting(bits: np.ndarray, start: int, length: int) -> np.ndarray:
    first = start // 8
    flags = np.unpackbits(bits[first : (start + length) // 8 + 1])
    return flags[start - 8 * first : start - 8 * first + length].astype(bool)


def _windows(
    index: FeatureIndex, latent: int, activations: _Activations, column: int, lm: LanguageModel
) -> tuple[list[str], int, int]:
    """What differs in a card's windows, how many there are, and how many of their tokens are active."""
    largest = float(index.columns["max"][latent])
    close = _CLOSE.get(next(lm.model.parameters()).dtype, _COARSE) * largest
    active, wrong, example, windows = 0, 0, "", index.card(latent).windows
    for window in windows:
        now = activations.of(column, window.offset, len(window.token_ids))
        then = window.activations
        differs = np.abs(now - then) > close + largest / 255
        differs[window.peak] = abs(now[window.peak] - window.max) > close
        active += int(((now > 0) | (then > 0)).sum())
        wrong += int(differs.sum())
        if differs.any() and not example:
            place = int(differs.argmax())
            example = f"at token {window.offset + place} it was {then[place]:.4g} and is {now[place]:.4g}"
    if wrong <= max(1, _SHARE * active):
        return [], len(windows), active
    told = f"latent {latent}: {wrong} of {active} active tokens of its windows have another activation; {example}"
    return [told], len(windows), active


def _weights(
    index: FeatureIndex, latent: int, sae: SAE, norms: Float[Tensor, " d_sae"], lens: Lens | None
) -> list[str]:
    """What differs in a card's logits and decoder neighbours."""
    found = []
    _, cosines = similar(sae.W_dec, range(latent, latent + 1), norms)
    stored = index.array("decnn_v").row(latent).astype(np.float32)
    if not np.allclose(stored, cosines[0], atol=2e-3):
        found.append(
            f"latent {latent}: the cosines of its decoder neighbours were {stored[:3]} and are {cosines[0][:3]}"
        )
    if lens is not None:
        values = lens.extremes(sae.W_dec[latent : latent + 1], LOGITS, NONE_ID)[1][0].numpy()
        stored = index.array("logit_v").row(latent).astype(np.float32)
        if not np.allclose(stored, values, rtol=5e-3, atol=5e-3 * float(np.abs(values).max())):
            found.append(f"latent {latent}: its largest logits were {stored[:3]} and are {values[:3]}")
    return found
