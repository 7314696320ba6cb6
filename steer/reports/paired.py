"""The paired table: each run against the first of the part, on the same samples."""

from typing import Any

from steer.evals.compare import adjusted, differences
from steer.reports.part import Part, Section
from steer.reports.table import Cell, Chance, Interval, Points, Share, Table

HEADER = (
    "run",
    "task",
    "figure",
    "n",
    "first run",
    "this run",
    "difference",
    "95 % interval",
    "samples up",
    "samples down",
    "p (Holm)",
    "unscored, first run",
    "unscored, this run",
)


def compared(part: Part) -> Section | None:
    """None for a run alone."""
    base, *others = part.runs
    if not others:
        return None
    title = "Against the first run, sample by sample"
    found = [(run, row) for run in others for row in differences(base.folder, run.folder) if row["split"] == part.split]
    if not found:
        return Section("paired", title, ("The runs have no samples in common, so nothing can be paired.",))
    found.sort(key=lambda pair: (others.index(pair[0]), part.tasks.index(pair[1]["task"])))
    rows = adjusted([row for _, row in found])
    named = [(run.label, row) for (run, _), row in zip(found, rows, strict=True)]
    words = (
        f"Differences from {base.label}, over the samples that both runs have scored: difference in percentage points "
        "with its 95 % interval by the bootstrap over groups of samples, how many samples went up and down, and the "
        "chance p of so large a difference by luck alone (McNemar's exact test; where samples go together the larger "
        "of it and that of exchanging the runs group by group, which is used alone where figures are not counts). The "
        "p-values of this table are corrected together (Holm). A large p does not show that two runs are alike: read "
        "the interval.",
    )
    main = [_row(label, row) for label, row in named if row["main"]]
    told = len(HEADER) - (0 if any(row[-1] or row[-2] for row in main) else 2)  # where all are scored
    tables = (
        Table("paired", title, HEADER[:told], [row[:told] for row in main]),
        Table("paired_all", f"{title}, every figure", HEADER, [_row(*one) for one in named], on_page=False),
    )
    return Section("paired", title, words, tables=tables)


def _row(label: str, row: dict[str, Any]) -> tuple[Cell, ...]:
    share = all(0 <= row[name] <= 1 for name in ("base", "other"))
    value, change = (Share, Points) if share else (float, float)
    interval = None if row["low"] is None else Interval(change(row["low"]), change(row["high"]))
    figures = (value(row["base"]), value(row["other"]), change(row["difference"]), interval)
    p = Chance(row["p_holm"]) if "p_holm" in row else None
    return (label, row["task"], row["title"], row["n"], *figures, row["gained"], row["lost"], p, *row["unscored"])
