"""``/show``: what is known of a latent, by the index, or where there is none by SAE and model alone."""

from collections.abc import Sequence

import numpy as np
import torch

from steer.errors import DataError, ModelError
from steer.explore.bench import Bench
from steer.explore.command import Command, Outcome, words_of
from steer.explore.firing import fires
from steer.explore.replies import prompt_ids
from steer.explore.shown import Line, Shown, Strip, Table
from steer.explore.state import State
from steer.index.card import Card, Window
from steer.index.direction import along

WINDOWS, AROUND = 5, 12  # windows of a card that are shown, and tokens before and behind the strongest
TOKENS = 10  # promoted, suppressed
NEIGHBOURS = 5
SIMILAR = "Writes along like directions"
_BARS = " ▁▂▃▄▅▆▇█"


def show(state: State, arguments: str, bench: Bench) -> Outcome:
    """What fires a latent, what it pushes towards, what is like it, and how it fires on the last prompt.

    Raises:
        DataError: no latent is given, or several.
        PlanError: the SAE has no such latent.
    """
    words = words_of(arguments)
    if len(words) != 1:
        raise DataError(f"/show needs one latent, got {len(words)}.")
    latent = bench.latent(words[0])
    shown = _card(bench, bench.index.card(latent)) if bench.index is not None else _without_index(bench, latent)
    if state.prompt is not None:
        shown.append(_on_prompt(bench, state, state.prompt, latent))
    return Outcome(state, tuple(shown))


def _card(bench: Bench, card: Card) -> list[Shown]:
    """A card of the index."""
    shown: list[Shown] = [Line(f"Latent {card.latent}")]
    shown += [Line(f"label: {label.text} (by {label.made_by})") for label in card.labels]
    shown += [Line(f"note: {note.text}") for note in card.notes]
    shown += [Line(f"tags: {', '.join(card.tags)}")] if card.tags else []
    if not card.fires:
        shown.append(Line("It never fired in the index's text."))
    shown += [_window(bench, window) for window in card.windows[:WINDOWS]]
    if card.fires:
        shown.append(Line(_histogram(card)))
    figures = [[name, f"{value:.4g}"] for name, value in card.columns.items() if np.isfinite(value)]
    shown.append(Table("Figures", ["name", "value"], figures))
    shown += _tokens(bench, card.promoted[:TOKENS], card.suppressed[:TOKENS])
    shown.append(_others(bench, SIMILAR, list(card.similar[:NEIGHBOURS])))
    if card.coactive:
        shown.append(_others(bench, "Fires together with", list(card.coactive[:NEIGHBOURS])))
    return shown


def _without_index(bench: Bench, latent: int) -> list[Shown]:
    """What SAE and model tell by themselves: the logit lens and the nearest decoder rows."""
    row = bench.sae.W_dec.detach()[latent]
    shown: list[Shown] = [Line(f"Latent {latent}, without an index: what SAE and model tell by themselves.")]
    try:
        logits = bench.lens.logits(row.unsqueeze(0))[0].cpu()
    except ModelError as error:
        shown.append(Line(f"note: {error}"))
    else:
        most = min(TOKENS, len(logits))
        both = [one.topk(most).indices.tolist() for one in (logits, -logits)]
        promoted, suppressed = ([(token, logits[token].item()) for token in ids] for ids in both)
        shown += _tokens(bench, promoted, suppressed)
    cosines = along(bench.sae.W_dec, row).cpu()
    cosines[latent] = -torch.inf
    nearest = cosines.topk(min(NEIGHBOURS, len(cosines) - 1))
    shown.append(_others(bench, SIMILAR, list(zip(nearest.indices.tolist(), nearest.values.tolist(), strict=True))))
    return shown


def _window(bench: Bench, window: Window) -> Strip:
    """The tokens around the place where it fires most, coloured by its activation."""
    pieces, first = bench.renderer.pieces(window.token_ids.tolist()), max(0, window.peak - AROUND)
    part = slice(first, window.peak + AROUND + 1)
    acts = window.activations[part]
    marks = [0 if act > 0 else None for act in acts]
    title = f"{window.max:.3g} in document {window.document}"
    return Strip(title, pieces[part], marks, (acts / max(window.max, 1e-9)).tolist(), _numbers(acts))


def _on_prompt(bench: Bench, state: State, prompt: str, latent: int) -> Strip:
    """How it fires on a prompt."""
    firing = fires(bench, prompt_ids(bench, state, prompt))
    acts = firing.of(latent)
    largest = acts.max(initial=0.0)
    title = f"On the last prompt, at most {largest:.3g}" if largest > 0 else "On the last prompt it does not fire"
    marks = [0 if act > 0 else None for act in acts]
    return Strip(title, bench.renderer.pieces(firing.ids), marks, (acts / max(largest, 1e-9)).tolist(), _numbers(acts))


def _numbers(acts: np.ndarray) -> list[str]:
    return [f"{act:.3g}" if act > 0 else "" for act in acts]


def _histogram(card: Card) -> str:
    """Tokens by activation, the height in the logarithm of their number."""
    counts = card.histogram.astype(np.float64)
    filled = np.flatnonzero(counts)
    heights = np.log1p(counts[filled[0] : filled[-1] + 1])
    bars = "".join(_BARS[round(height / heights.max() * (len(_BARS) - 1))] for height in heights)
    return f"activations from {card.edges[filled[0]]:.3g} to {card.edges[filled[-1] + 1]:.3g}: {bars}"


def _tokens(
    bench: Bench, promoted: Sequence[tuple[int, float]], suppressed: Sequence[tuple[int, float]]
) -> list[Shown]:
    """Tokens that its decoder row pushes towards and away from."""
    if not promoted:
        return []
    rows = [
        [bench.renderer.text([up]), f"{high:.3f}", bench.renderer.text([down]), f"{low:.3f}"]
        for (up, high), (down, low) in zip(promoted, suppressed, strict=True)
    ]
    return [Table("By the logit lens", ["promotes", "logit", "suppresses", "logit"], rows)]


def _others(bench: Bench, title: str, near: list[tuple[int, float]]) -> Table:
    """Other latents, with a cosine to this one."""
    labelled = bench.index is not None
    rows = [[str(one), f"{cosine:.3f}", *([bench.label(one)] if labelled else [])] for one, cosine in near]
    return Table(title, ["latent", "cosine", *(["label"] if labelled else [])], rows)


SHOW = Command("show", "LATENT", "what is known of a latent", show, "latent")
