"""``/show``: what is known of a latent, by the index, or where there is none by SAE and model alone."""

from collections.abc import Sequence

import numpy as np

from steer.errors import DataError
from steer.explore.bench import Bench
from steer.explore.command import Command, Outcome, words_of
from steer.explore.firing import fires
from steer.explore.replies import prompt_ids
from steer.explore.shown import Line, Shown, Strip, Table
from steer.explore.state import State
from steer.index.card import Card, Window
from steer.index.from_weights import card_of_weights

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
    if bench.index is not None:
        shown = [Line(f"Latent {latent}"), *_told(bench.index.card(latent)), *_card(bench, bench.index.card(latent))]
    else:
        card, _ = card_of_weights(bench.sae, bench.lm, latent)
        shown = [
            Line(f"Latent {latent}, of which there is no index: this is what its weights tell."),
            *_card(bench, card),
        ]
    if state.prompt is not None:
        shown.append(_on_prompt(bench, state, state.prompt, latent))
    return Outcome(state, tuple(shown))


def _told(card: Card) -> list[Shown]:
    """What people and models say of it, and whether it fires at all."""
    shown = [f"label: {label.text} (by {label.made_by})" for label in card.labels]
    shown += [f"note: {note.text}" for note in card.notes]
    shown += [f"tags: {', '.join(card.tags)}"] if card.tags else []
    return [Line(line) for line in [*shown, *([] if card.fires else ["It never fired in the index's text."])]]


def _card(bench: Bench, card: Card) -> list[Shown]:
    """The figures of a card."""
    shown: list[Shown] = [_window(bench, window) for window in card.windows[:WINDOWS]]
    shown += [Line(_histogram(card))] if card.fires else []
    figures = [[name, f"{value:.4g}"] for name, value in card.columns.items() if np.isfinite(value)]
    shown.append(Table("Figures", ["name", "value"], figures))
    shown += _tokens(bench, card.promoted[:TOKENS], card.suppressed[:TOKENS])
    for title, others in ((SIMILAR, card.similar), ("Fires together with", card.coactive)):
        shown += [_others(bench, title, others[:NEIGHBOURS])] if others else []
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


def _others(bench: Bench, title: str, near: Sequence[tuple[int, float]]) -> Table:
    """Other latents, with a cosine to this one."""
    labels = [bench.label(one) for one, _ in near]
    rows = [
        [str(one), f"{cosine:.3f}", *([label] if any(labels) else [])]
        for (one, cosine), label in zip(near, labels, strict=True)
    ]
    return Table(title, ["latent", "cosine", *(["label"] if any(labels) else [])], rows)


SHOW = Command("show", "LATENT", "what is known of a latent", show, "latent")
