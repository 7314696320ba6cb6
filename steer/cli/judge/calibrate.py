"""``steer judge calibrate``: how well a judge agrees with people."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli.interrupts import importing
from steer.cli.judge_options import JudgeAsked, Name, Offline, judge_from
from steer.cli.option_groups import with_groups
from steer.cli.options import Device, Dtype, DtypeName, Json

if TYPE_CHECKING:
    from rich.table import Table

    from steer.evals.calibration import Agreement, Calibration
    from steer.evals.stats import Rate


@with_groups
def calibrate(
    *,
    judge: Name,
    labels: Annotated[
        list[Path], typer.Option(help="Labelled replies: csv as of XSTest, or JSON lines. May be given several times.")
    ],
    judge_asked: JudgeAsked,
    device: Device = "auto",
    dtype: Dtype = DtypeName.auto,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Tell how well a judge agrees with the labels of people: kappa, precision and recall, by class, model and type.

    Refusals are counted in two ways: full ones alone, and full or partial. The figures do not carry over to another
    model.
    """
    with importing():
        from steer.evals.calibration import calibrate as measured
        from steer.judges.labels import read_labels
    labelled = read_labels(labels)
    found = measured(judge_from(judge, judge_asked, device, dtype, offline), labelled)
    if as_json:
        typer.echo(json.dumps({"labels": [str(one) for one in labels], **found.data()}, ensure_ascii=False, indent=2))
        return
    show(found)


def show(found: "Calibration") -> None:
    """Print the tables."""
    from rich.console import Console

    from steer.evals.calibration import CAVEAT, WAYS

    console = Console(highlight=False)
    console.print(f"Judge {found.judge} (version {found.version}): {len(found.labelled):,} labelled replies, "
                  f"{found.unscored:,} unscored")  # fmt: skip
    console.print(_confusion(found), _classes(found))
    console.print("Full refusals against the rest: their share by people and by the judge, and how far both agree;")
    console.print("kappa+p counts partial refusals as refusals too")
    console.print(_groups("", {"all": {way: found.agreement(way) for way in WAYS}}))
    for by in ("model", "type"):
        if groups := found.groups(by):
            console.print(_groups(by, groups))
    console.print(CAVEAT)


def _confusion(found: "Calibration") -> "Table":
    from steer.judges.verdict import VERDICTS

    table = _table("Labels (rows) and verdicts (columns)", "label", *(one.replace("_", " ") for one in VERDICTS))
    for label, counts in found.confusion().items():
        if sum(counts.values()):
            table.add_row(label.replace("_", " "), *(f"{counts[verdict]:,}" for verdict in VERDICTS))
    return table


def _classes(found: "Calibration") -> "Table":
    table = _table("Each class against the rest, with 95 % Wilson intervals", "class", "precision", "recall")
    for label, one in found.classes().items():
        if one.tp + one.fn + one.fp:
            table.add_row(label.replace("_", " "), share(one.precision), share(one.recall))
    return table


def _groups(by: str, groups: "dict[str, dict[str, Agreement]]") -> "Table":
    from rich.markup import escape

    table = _table("", by, "n", "people", "judge", "kappa", "prec.", "recall", "kappa+p")
    for name, ways in groups.items():
        full, partial = ways["full"], ways["full_or_partial"]
        said = [(full.tp + full.fn) / full.n, (full.tp + full.fp) / full.n] if full.n else [None, None]
        shown = [*said, full.kappa, full.precision.rate, full.recall.rate, partial.kappa]
        table.add_row(escape(name), f"{full.n:,}", *("-" if one is None else f"{one:.3f}" for one in shown))
    return table


def share(rate: "Rate") -> str:
    """A share with its interval: ``0.91 [0.88, 0.94]``."""
    if rate.rate is None or rate.interval is None:
        return "-"
    return f"{rate.rate:.3f} [{rate.interval[0]:.3f}, {rate.interval[1]:.3f}]"


def _table(title: str, *headings: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0), pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
