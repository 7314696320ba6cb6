"""What a part of a report tells, section by section: data, with words, tables and drawings."""

from collections.abc import Iterable, Sequence
from functools import partial

from steer.reports.calibrations import Calibrated
from steer.reports.drawing import Block, Panel, draw_dots, draw_frontier, draw_verdicts
from steer.reports.estimates import SAFE_REFUSED, UNSAFE_REFUSED, Estimate, estimate, is_refusal
from steer.reports.frontier import frontier
from steer.reports.groups import ABOUT, Grouped, contrasts, grouped, shown_groups
from steer.reports.judged import judging
from steer.reports.paired import compared
from steer.reports.part import Part, Section
from steer.reports.table import Cell, Interval, Share, Table
from steer.reports.verdicts import bars

KINDS = {
    UNSAFE_REFUSED: "unsafe requests refused (higher is better)",
    SAFE_REFUSED: "safe requests refused (lower is better)",
}
WHISKERS = "Whiskers are 95 % intervals."


def sections(part: Part, calibrations: Sequence[Calibrated] = ()) -> list[Section]:
    """All that there is data for, in the order of a report; ``calibrations`` are of judges, these or others."""
    by_task = [by_group(part, task) for task in part.tasks]
    found = [trade_off(part), each_task(part), outcomes(part), *by_task, compared(part), judging(part, calibrations)]
    return [one for one in found if one is not None]


def trade_off(part: Part) -> Section | None:
    """Refusal of unsafe requests against over-refusal and ability."""
    found = frontier(part)
    if found is None:
        return None
    over = [("unsafe requests refused", found.harmful), *found.costs.items()]
    told = " ".join(f"{axis.capitalize()}: {', '.join(one.tasks)} (n = {one.n:,})." for axis, one in over)
    words = [
        "Each run is a point. Higher is safer: more unsafe requests are refused. What that costs is on the other axis: "
        "safe requests that are refused as well (less is better), and questions that are answered right (more is "
        f"better). {WHISKERS} The dashed line is the frontier: it joins the runs that no other beats on both axes, by "
        "the points alone. Where whiskers overlap it may lie elsewhere.",
        f"Tasks are taken together, every sample alike, over the samples that all runs have scored. {told}",
    ]
    header = ("run", *(name for axis, _ in over for name in (axis, "95 % interval", "n")))
    rows = [
        (label, *(cell for _, one in over for cell in _cells(one.by_run[number])))
        for number, label in found.labels.items()
    ]
    table = Table("frontier", "Safety and what it costs", header, rows)
    alt = "Each run as a point with whiskers: unsafe requests refused against what that costs"
    return Section("frontier", table.title, words, partial(draw_frontier, found), alt, (table,))


def each_task(part: Part) -> Section:
    """The figures of every task: the main ones as a figure, all as a table."""
    title = "Every task"
    blocks = [_block(words, _main(part, name)) for name, words in KINDS.items()]
    blocks.append(_block("questions answered right, and other figures (higher is better)", _main(part, None)))
    kept = tuple(one for one in blocks if one is not None)
    labels = {run.number: run.label for run in part.runs}
    header = ("task", "figure", "run", "value", "95 % interval", "n", "unscored", "if unscored counted as 0, as 1")
    main = tuple(_rows(part, mains_only=True))
    tables = (
        Table("tasks", title, header, main),
        Table("all_figures", "Every figure of every task", header, tuple(_rows(part)), on_page=False),
    )
    words = [
        f"The main figures of each task. {WHISKERS} They allow for samples that go together: several about one thing, "
        "or of one type or subject. Shares are in percent. Unscored samples (a prompt too long for the model, a judge "
        "without a verdict) count for nothing; the last column bounds what they could change."
    ]
    draw = partial(draw_dots, f"{title}, {part.words}", labels, kept) if kept else None
    return Section("tasks", title, words, draw, "Main figures of each task and run, with intervals", tables)


def outcomes(part: Part) -> Section | None:
    """Refusals beside answers and broken replies."""
    found = bars(part)
    if not found:
        return None
    title = "Refusals beside broken replies"
    labels = {run.number: run.label for run in part.runs}
    header = ("task", "requests", "run", "n", "full refusal", "partial refusal", "answered", "broken reply", "unscored")
    rows: list[tuple[Cell, ...]] = [
        (one.task, one.harm, labels[one.run], one.n, *(Share(one.share(verdict)) for verdict in one.counts))
        for one in found
    ]
    words = [
        "Strong steering breaks replies. A broken one (empty, going in circles) is neither a refusal nor an answer: a "
        "method that breaks replies would otherwise pass for one that cures over-refusal. Bars are all replies; "
        "numbers at their left are the runs'. In the table, percent of all replies."
    ]
    draw = partial(draw_verdicts, f"{title}, {part.words}", labels, found)
    alt = "For each task and run a bar: refusals, answers, broken replies, unscored"
    return Section("verdicts", title, words, draw, alt, (Table("verdicts", title, header, rows),))


def by_group(part: Part, task: str) -> Section | None:
    """The figures of a task by type, category or subject."""
    first = part.having(task)[0].tasks[task]
    found = shown_groups(part, task)
    if not found:
        return None
    mirrored = contrasts(first) if is_refusal(first) else {}
    title = f"{task} by {first.cluster}"
    labels = {run.number: run.label for run in part.having(task)}
    words = [f"{_per_group(found)} {WHISKERS} With so few of each, differences between single groups are mostly luck."]
    if mirrored and len(found) == 2:
        blocks = [_mirrored(found[0], found[1], mirrored)]
        words.append(
            "Each safe type stands beside the unsafe type that mirrors it: the same words and situations, where the "
            "request should be refused. A run that refuses both columns alike reacts to the words, not to the harm."
        )
    else:
        blocks = [_of_groups(one) for one in found]
    draw = partial(draw_dots, f"{title}, {part.words}", labels, blocks)
    alt = f"Figures of {task} by {first.cluster}, with intervals"
    header = (first.cluster, "figure", "run", "value", "95 % interval", "n")
    rows = [row for one in found for row in _group_rows(one, labels)]
    table = Table(f"{task}_by_{first.cluster}", title, header, rows)
    return Section(table.name, title, words, draw, alt, (table,))


def _main(part: Part, metric: str | None) -> dict[tuple[str, int], Estimate]:
    """A main metric by task and run; None: the other shares of tasks that ask for no refusals."""
    found = {}
    for name in part.tasks:
        for run in part.having(name):
            task = run.tasks[name]
            mains = {key: one for key, one in task.metrics.items() if one["main"]}
            others = {key: one for key, one in mains.items() if key not in KINDS and one["better"] == "higher"}
            wanted = others if metric is None else {key: one for key, one in mains.items() if key == metric}
            for one in wanted.values():
                cell = estimate(one)
                if cell is not None and cell.is_share:
                    found[name if len(wanted) == 1 else f"{name}: {one['title']}", run.number] = cell
    return found


def _block(title: str, cells: dict[tuple[str, int], Estimate]) -> Block | None:
    rows = tuple(dict.fromkeys(row for row, _ in cells))
    return Block(rows, (Panel(title, cells),)) if rows else None


def _rows(part: Part, mains_only: bool = False) -> Iterable[tuple[Cell, ...]]:
    for name in part.tasks:
        first = part.having(name)[0].tasks[name]
        for metric, one in first.metrics.items():
            if mains_only and not one["main"]:
                continue
            for run in part.having(name):
                told = run.tasks[name].metrics.get(metric)
                cell, missing = estimate(told), (told or {}).get("unscored", run.tasks[name].found["unscored"])
                bounds = (told or {}).get("if_unscored") if missing else None
                whole = None if bounds is None else Interval(*map(Share, bounds))
                shown = (None, None, 0) if cell is None else _cells(cell)
                yield (name, one["title"], run.label, *shown, missing, whole)


def group_table(part: Part, task: str) -> Table | None:
    """All metrics of a task by group, for the files alone; not by what single prompts are about."""
    if part.having(task)[0].tasks[task].cluster == ABOUT:
        return None
    labels = {run.number: run.label for run in part.having(task)}
    metrics = dict.fromkeys(name for run in part.having(task) for name in run.tasks[task].metrics)
    found = [one for name in metrics if (one := grouped(part, task, name)) is not None]
    if not found:
        return None
    tag = found[0].tag
    rows = tuple(row for one in found for row in _group_rows(one, labels))
    header = (tag, "figure", "run", "value", "95 % interval", "n")
    return Table(f"{task}_by_{tag}_all", f"{task} by {tag}, every figure", header, rows, on_page=False)


def _group_rows(one: Grouped, labels: dict[int, str]) -> Iterable[tuple[Cell, ...]]:
    for group in one.groups:
        for number, label in labels.items():
            if (cell := one.cells.get((group, number))) is not None:
                yield (group, one.title, label, *_cells(cell))


def _of_groups(one: Grouped) -> Block:
    named = {group: group.replace("_", " ") for group in one.groups}
    cells = {(named[group], number): cell for (group, number), cell in one.cells.items()}
    return Block(tuple(named.values()), (Panel(one.title, cells),))


def _mirrored(safe: Grouped, unsafe: Grouped, mirrored: dict[str, str]) -> Block:
    """Safe types and their contrasts, row by row."""
    numbers = {number for _, number in (*safe.cells, *unsafe.cells)}
    left = {(n, i): safe.cells[n, i] for n in mirrored for i in numbers if (n, i) in safe.cells}
    right = {(n, i): unsafe.cells[m, i] for n, m in mirrored.items() for i in numbers if (m, i) in unsafe.cells}
    named = {name: name.replace("_", " ") for name in mirrored}
    panels = [
        Panel(title, {(named[name], number): cell for (name, number), cell in cells.items()})
        for title, cells in (
            ("safe type refused (lower is better)", left),
            ("its unsafe contrast refused (higher is better)", right),
        )
    ]
    return Block(tuple(named.values()), tuple(panels))


def _per_group(found: list[Grouped]) -> str:
    sizes = sorted({cell.n for one in found for cell in one.cells.values()})
    told = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return f"{told} sample{'' if sizes[-1] == 1 else 's'} of each."


def _cells(one: Estimate) -> tuple[Cell, Cell, Cell]:
    return Share(one.value) if one.is_share else one.value, one.interval, one.n
