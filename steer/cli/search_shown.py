"""What ``steer search`` prints: a table, CSV or JSON; and its page of cards."""

import csv
import io
import json
from typing import TYPE_CHECKING, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from steer.files import finite
from steer.studies.text import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steer.index.read import FeatureIndex
    from steer.search.hits import Hit, SearchResult

_COLUMNS = ("density", "max", "refusal_steerability")  # those shown in the table, where the index has them
_FORMULA = ("=", "+", "-", "@")  # what spreadsheets run


def print_found(index: "FeatureIndex", found: "SearchResult", form: Literal["table", "csv", "json"]) -> None:
    """The hits on stdout. JSON has the notes and settings too; what is not finite there is null."""
    if form == "json":
        typer.echo(json.dumps(finite(found.data()), ensure_ascii=False, indent=2, allow_nan=False))
    elif form == "csv":
        typer.echo(as_csv(index, found), nl=False)
    else:
        _print_table(index, found)


def _print_table(index: "FeatureIndex", found: "SearchResult") -> None:
    """The hits as a table on stdout: each with its label, a few columns, and why it matched."""
    names = [name for name in _COLUMNS if name in index.columns]
    table = Table(box=None, pad_edge=False, show_header=True, header_style="bold")
    table.add_column("", justify="right", style="dim")
    table.add_column("latent", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("label, and why it matched", overflow="fold", ratio=1)
    for number, hit in enumerate(found.hits, start=1):
        figures = [f"{float(index.columns[name][hit.latent]):.3g}" for name in names]
        table.add_row(str(number), str(hit.latent), *figures, _why(index, hit))
    console = Console(emoji=False, highlight=False)  # texts of models and data are shown as they are
    if found.hits:
        console.print(table)
    else:
        console.print("No latent matches.")


def _why(index: "FeatureIndex", hit: "Hit") -> str:
    labels = index.labels(hit.latent)
    label = f"[bold]{escape(visible(labels[0].text))}[/bold]" if labels else "[dim](no label)[/dim]"
    lines = [
        f"[cyan]{reason.kind}[/cyan] [dim]#{reason.rank} of {reason.of:,}[/dim] {escape(visible(reason.text))}"
        for reason in hit.reasons
    ]
    return "\n".join([label, *lines])


def as_csv(index: "FeatureIndex", found: "SearchResult") -> str:
    """The hits as CSV: a row each, with all columns of the index, and rank, score and reason of every part."""
    kinds = list(dict.fromkeys(reason.kind for hit in found.hits for reason in hit.reasons))
    parts = [f"{kind}_{what}" for kind in kinds for what in ("rank", "score", "why")]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["rank", "latent", "score", "label", *parts, *index.columns])
    for number, hit in enumerate(found.hits, start=1):
        reasons = {reason.kind: reason for reason in hit.reasons}
        labels = index.labels(hit.latent)
        row: list[Any] = [number, hit.latent, hit.score, _cell(labels[0].text) if labels else ""]
        for kind in kinds:
            one = reasons.get(kind)
            row += ["", "", ""] if one is None else [one.rank, one.score, _cell(one.text)]
        row += [float(index.columns[name][hit.latent]) for name in index.columns]
        writer.writerow(row)
    return file.getvalue()


def _cell(text: str) -> str:
    """Text that a spreadsheet shows rather than runs."""
    shown = str(visible(text))
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def page(index: "FeatureIndex", found: "SearchResult", asked: "Sequence[str]") -> str:
    """The hits as a page of cards."""
    from steer.reports.hits import render_hits

    cards = [index.card(hit.latent) for hit in found.hits]
    return render_hits(found, cards, index.renderer.pieces, asked, index.folder.resolve().name)
