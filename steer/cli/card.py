"""A card of a feature index as rich draws it on a terminal."""

import unicodedata
from collections.abc import Iterator, Mapping
from math import isfinite, nan
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from steer.index.card import Card, Window
    from steer.index.render import Renderer

_BARS = " ▁▂▃▄▅▆▇█"
_TITLES = {"\n": "⏎", "\t": "⇥", "\r": "␍"}
_STRONGEST = 6  # windows shown of those, and one of each stratum, unless all are


def drawn(card: "Card", renderer: "Renderer", every: bool = False) -> Group:
    """The card; with ``every``, all of its windows."""
    parts: list[RenderableType] = [_heading(card)]
    parts += [Text(f"“{visible(label.text)}”  {label.made_by}", style="italic") for label in card.labels]
    parts += [Text(f"note: {visible(note.text)}", style="yellow") for note in card.notes]
    if card.tags:
        parts.append(Text("tags: " + ", ".join(map(visible, card.tags)), style="yellow"))
    parts.append(_figures(card))
    parts += _steering(card)
    if not card.fires and "density" in card.columns:
        parts.append(Text("It was never active on the text of the index.", style="bold"))
    if card.fires:
        parts += [*_histogram(card), *_windows(card, renderer, every)]
    parts += _weights(card, renderer)
    return Group(*parts)


def visible(text: str) -> str:
    """A text without characters that move the cursor or turn the direction of writing."""
    return "".join(_TITLES.get(one, one if _harmless(one) else f"\\u{ord(one):04x}") for one in text)


def _harmless(character: str) -> bool:
    return character == "\u200d" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def _heading(card: "Card") -> Text:
    return Text(f"latent {card.latent}", style="bold")


def _figures(card: "Card") -> Table:
    table = Table.grid(padding=(0, 2))
    shares = {f"at {name}": value for name, value in card.by_position.items()}
    roles = {f"of {name}": value for name, value in card.by_role.items()}
    told = ("density_", *(f"{behaviour}_" for behaviour in _behaviours(card)))
    plain = {name: value for name, value in card.columns.items() if not name.startswith(told)}
    for group in (plain, roles, shares):
        if group:
            table.add_row(Text("  ".join(f"{name} {value:.4g}" for name, value in group.items())))
    return table


def _behaviours(card: "Card") -> list[str]:
    """What the referee of the finder has measured of latents: ``refusal`` of ``refusal_steerability``."""
    ends = "_steerability"
    return [name.removesuffix(ends) for name in card.columns if name.endswith(ends) and name != ends]


def _steering(card: "Card") -> Iterator[RenderableType]:
    """What clamping the latent does, a line for each behaviour: the best dose, what it costs, the largest safe dose."""
    for behaviour in _behaviours(card):
        own = {name.removeprefix(f"{behaviour}_"): value for name, value in card.columns.items()}
        if not isfinite(own["steerability"]):
            continue  # not compared
        figures = {
            "steerability": f"{own['steerability']:.2f}",
            "standard error": _figure(own, "steerability_error", ".2f"),
            "clamped to": _figure(own, "best_strength", ".3g"),
            "unsafe refused": _figure(own, "refused_unsafe", ".0%"),
            "safe refused": _figure(own, "refused_safe", ".0%"),
            "KL on text": _figure(own, "kl", ".3g"),
            "safe up to": _figure(own, "safe_strength", ".3g"),
            "of its maximum": _figure(own, "safe_strength_max_act", ".2g"),
        }
        told = "  ".join(f"{name} {value}" for name, value in figures.items() if value)
        yield Text(f"{behaviour}: {told}", style="magenta")


def _figure(columns: Mapping[str, float], name: str, form: str) -> str:
    value = columns.get(name, nan)
    return format(value, form) if isfinite(value) else ""


def _histogram(card: "Card") -> Iterator[RenderableType]:
    used = card.histogram.nonzero()[0]
    if not len(used):
        return  # a file that was altered: `steer index verify` tells
    first, last = int(used[0]), int(used[-1])
    counts = card.histogram[first : last + 1].astype(float)
    heights = (counts > 0) + (counts / counts.max() * 7).round()
    bars = "".join(_BARS[int(height)] for height in heights)
    yield Text(f"activations {card.edges[first]:.3g} {bars} {card.edges[last + 1]:.3g}  (logarithmic)", style="cyan")


def _windows(card: "Card", renderer: "Renderer", every: bool) -> Iterator[RenderableType]:
    shown = list(card.windows)
    if not every:
        samples = {window.stratum: window for window in reversed(shown) if window.stratum}
        shown = [window for window in shown if not window.stratum][:_STRONGEST]
        shown += [samples[stratum] for stratum in sorted(samples)]
    largest = max(window.max for window in card.windows)
    for window in shown:
        kind = "top" if not window.stratum else f"1/{2 ** (window.stratum - 1)}"
        yield Text.assemble((f"{window.max:8.3g} {kind:>5} ", "dim"), _highlighted(window, renderer, largest))


def _highlighted(window: "Window", renderer: "Renderer", largest: float) -> Text:
    found = Text(overflow="fold")
    pieces = renderer.pieces(window.token_ids.tolist())
    for place, (piece, value) in enumerate(zip(pieces, window.activations.tolist(), strict=True)):
        style = ""
        if value > 0 and largest > 0:
            depth = int(70 + 140 * min(1.0, value / largest))
            style = f"black on rgb({depth + 40},{depth // 2 + 90},60)" + (" bold" if place == window.peak else "")
        found.append(visible(piece), style=style)
    return found


def _weights(card: "Card", renderer: "Renderer") -> Iterator[RenderableType]:
    for name, tokens in (("promotes", card.promoted), ("suppresses", card.suppressed)):
        if tokens:
            words = "  ".join(f"{visible(renderer.text([token]))!r} {value:.3g}" for token, value in tokens[:10])
            yield Text(f"{name:>11}  {words}")
    for name, latents in (("fires with", card.coactive), ("writes like", card.similar)):
        if latents:
            yield Text(f"{name:>11}  " + "  ".join(f"{latent} {value:.2f}" for latent, value in latents[:10]))
