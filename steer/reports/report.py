"""The report of evaluations: one self-contained page, with figures and tables as files beside it.

``write_report`` reads downwards. What is computed is in ``frontier``, ``verdicts``, ``groups``, ``paired``, ``flips``
and ``labels``; the words are in ``sections`` and ``page.html``; the drawings in ``drawing``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steer.errors import OutputError
from steer.files import remove, write_bytes, write_text
from steer.forks import forked
from steer.reports.calibrations import read_calibrations
from steer.reports.flips import Flip, flips
from steer.reports.notes import notes
from steer.reports.page import ToldPart, render
from steer.reports.part import Part, Section, parts_of
from steer.reports.runs import read_runs
from steer.reports.sections import group_table, sections
from steer.reports.table import Table, to_csv, to_latex
from steer.studies.paper import DARK, LIGHT, data_uri, pdf, png

FIGURES, TABLES = "figures", "tables"
_WRITTEN = {FIGURES: (".png", ".pdf"), TABLES: (".csv", ".tex")}


@dataclass(frozen=True)
class Drawn:
    """A figure in its forms."""

    light: bytes
    dark: bytes
    pdf: bytes


def write_report(
    folders: Sequence[Path], out: Path, processes: int = 1, judge: str = "", calibrations: Sequence[Path] = ()
) -> Path:
    """Write the page ``out``, and figures and tables into the folder beside it; returns the page's path.

    The folder is called as the page, with ``_files`` for its ending. It has ``figures/*.png`` and ``*.pdf``, and
    ``tables/*.csv`` and ``*.tex``; each name begins with the split that its figures are of. What an earlier report has
    left there goes.

    Args:
        folders: of runs of `steer eval`; the others are compared with the first.
        out: the page, a file that ends in ``.html``.
        processes: draw figures side by side.
        judge: whose verdicts are shown, where `steer rejudge` has asked another (``steer.evals.rejudge.anew``); empty:
            each run's own.
        calibrations: files that `steer judge calibrate --json` has printed.

    Raises:
        DataError: see ``steer.reports.runs.read_runs``; or a file of labels or of a calibration is damaged.
        OutputError: the page is no ``.html`` file, or something cannot be written.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"The report is a page: give a name that ends in .html, got {out}.")
    if out.is_dir():
        raise OutputError(f"{out} is a folder; give the name of a page, such as {out / 'report.html'}.")
    runs, known = read_runs(folders, judge), read_calibrations(calibrations)
    files = out.with_name(f"{out.stem}_files")
    parts = parts_of(runs)
    told = [(part, sections(part, known), flips(part)) for part in parts]
    jobs = [(part, one) for part, own, _ in told for one in own if one.draw is not None]
    drawn = dict(zip(((part.mark, one.name) for part, one in jobs), forked(_draw, jobs, processes), strict=True))
    _clear(files)
    for (mark, name), one in drawn.items():
        write_bytes(files / FIGURES / _file_name(mark, name, "png"), one.light)
        write_bytes(files / FIGURES / _file_name(mark, name, "pdf"), one.pdf)
    for part, own, changed in told:
        _write_tables(part, own, changed, files / TABLES)
    shown = [
        ToldPart(
            part,
            own,
            changed,
            notes(part),
            {name: _images(one) for (mark, name), one in drawn.items() if mark == part.mark},
        )
        for part, own, changed in told
    ]
    write_text(out, render(runs, shown, files.name))
    return out


def _file_name(mark: str, name: str, ending: str) -> str:
    """The name of a file; the split stands first."""
    return f"{mark}_{re.sub(r'[^a-zA-Z0-9_-]+', '-', name).strip('-') or 'task'}.{ending}"


def _flip_table(found: Sequence[Flip]) -> Table:
    """All samples that flipped, whole; the page shows the first of each task."""
    header = ("run", "task", "sample", "way", "prompt", "first run", "this run", "first verdict", "this verdict")
    rows = [
        (
            one.run.label,
            one.task,
            one.sample,
            one.way,
            "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in one.messages),
            one.first.text,
            one.other.text,
            one.first.verdict,
            one.other.verdict,
        )
        for one in found
    ]
    return Table("flipped", "Samples that flipped", header, rows)


def _draw(job: tuple[Part, Section]) -> Drawn:
    _, section = job
    assert section.draw is not None
    light = section.draw(LIGHT)
    return Drawn(png(light, LIGHT), png(section.draw(DARK), DARK), pdf(light, LIGHT))


def _images(one: Drawn) -> dict[str, str]:
    return {"light": data_uri(one.light), "dark": data_uri(one.dark)}


def _write_tables(part: Part, own: Sequence[Section], changed: Sequence[Flip], folder: Path) -> None:
    by_group = [group_table(part, task) for task in part.tasks]
    for table in (*(table for one in own for table in one.tables), *(one for one in by_group if one is not None)):
        write_text(folder / _file_name(part.mark, table.name, "csv"), to_csv(table, part.words))
        if table.on_page:  # the others are long
            write_text(
                folder / _file_name(part.mark, table.name, "tex"), to_latex(table, f"{table.title}, {part.words}")
            )
    if changed:
        table = _flip_table(changed)
        write_text(folder / _file_name(part.mark, table.name, "csv"), to_csv(table, part.words))


def _clear(files: Path) -> None:
    """Remove what an earlier report has written, and nothing else."""
    for name, endings in _WRITTEN.items():
        for path in sorted((files / name).glob("*")) if (files / name).is_dir() else ():
            if path.suffix in endings and path.name.startswith(("test_", "dev_", "unsplit_")):
                remove(path)
