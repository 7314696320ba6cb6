"""Results of evaluations as tables."""

import json
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from steer.cli.notes import say

PERCENT = 100.0


def tell(found: dict[str, Any], everything: bool, as_json: bool) -> None:
    """Print the results of a run, as JSON or as a table; what must be known of them goes to stderr."""
    for note in (*fitted_notes(found), *unscored_notes(found)):
        say(note)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        Console().print(results_table(found, everything))


def results_table(found: dict[str, Any], everything: bool = False) -> Table:
    """One row for each metric of each task; without ``everything`` those that say nothing new are left out."""
    table = Table(title=escape(f"{found['responder']} on {found.get('model', '')}"), box=box.SIMPLE_HEAD)
    table.add_column("task")
    table.add_column("figure (%)")
    for name in ("value", "95 % interval", "n", "unscored"):
        table.add_column(name, justify="right", no_wrap=True)
    for task, one in found["tasks"].items():
        split = one["settings"].get("split", "")
        shown = f"{task} ({split})" if split else task
        for name, metric in one["metrics"].items():
            if everything or metric["main"] or _is_news(name, one["metrics"]):
                lacking = metric.get("unscored", one["unscored"])
                unscored = f"{lacking}{_bounds(metric)}" if lacking else ""
                table.add_row(
                    escape(shown),
                    escape(metric["title"]),
                    _value(metric),
                    _interval(metric),
                    str(metric["n"]),
                    unscored,
                )
                shown = ""
    return table


def unscored_notes(found: dict[str, Any]) -> list[str]:
    """Of each task with unscored samples how many they are, and the commonest reason."""
    return [
        f"{task}: {one['unscored']} of {one['n']} samples are unscored, such as by this: {reason}"
        for task, one in found["tasks"].items()
        for reason in list(one.get("unscored_because", ()))[:1]
    ]


def fitted_notes(found: dict[str, Any]) -> list[str]:
    """What must be known of tasks that ask what the responder was fitted on."""
    return [
        f"{task}: {one['fitted_on']} of {one['n']} prompts are among those that {found['responder']} was fitted or "
        "chosen on. Such figures flatter it: choose and report on different prompts."
        for task, one in found["tasks"].items()
        if one.get("fitted_on")
    ]


def _is_news(name: str, metrics: dict[str, Any]) -> bool:
    """Whether a metric beside the main ones is neither nothing nor the same as its main one."""
    value = metrics[name]["value"]
    whole = metrics.get(name.removesuffix("_or_partly"), {}).get("value") if name.endswith("_or_partly") else None
    return bool(value) and value != whole


def compare_table(found: dict[str, Any], everything: bool = False) -> Table:
    """One row for each metric of each task of each run, against the first run; main metrics without ``everything``.

    p is Holm's, over all main metrics.
    """
    table = Table(
        title=escape(f"Difference from {found['base']}, on the same samples"), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    runs = list(dict.fromkeys(row["folder"] for row in found["rows"]))
    if len(runs) > 1:
        table.add_column("run", overflow="fold", min_width=12)
    table.add_column("task: figure (%)", overflow="fold", min_width=20)
    for name in ("first", "run's", "diff", "95 % interval", "+/-", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found["rows"]:
        if not everything and not row["main"]:
            continue
        share = _is_share(row["base"], row["other"])
        interval = "" if row["low"] is None else f"[{_signed(row['low'], share)}, {_signed(row['high'], share)}]"
        task = f"{row['task']} ({row['split']})" if row["split"] else row["task"]
        table.add_row(
            *([escape(row["run"])] if len(runs) > 1 else []),
            escape(f"{task}: {row['title']}, n = {row['n']}"),
            _plain(row["base"], share),
            _plain(row["other"], share),
            _signed(row["difference"], share),
            interval,
            f"{row['gained']}/{row['lost']}",
            _p(row["p_holm"]) if "p_holm" in row else "",
        )
    return table


def _value(metric: dict[str, Any]) -> str:
    return "-" if metric["value"] is None else _plain(metric["value"], _is_share(metric["value"]))


def _interval(metric: dict[str, Any]) -> str:
    if metric["low"] is None:
        return ""
    share = _is_share(metric["value"])
    return f"{_plain(metric['low'], share)} - {_plain(metric['high'], share)}"


def _bounds(metric: dict[str, Any]) -> str:
    if "if_unscored" not in metric:
        return ""
    low, high = metric["if_unscored"]
    return f" ({_plain(low, True)} - {_plain(high, True)})"


def _is_share(*values: float) -> bool:
    return all(0 <= value <= 1 for value in values)


def _plain(value: float, share: bool) -> str:
    return f"{PERCENT * value:.1f}" if share else f"{value:.4g}"


def _signed(value: float, share: bool) -> str:
    return f"{PERCENT * value:+.1f}" if share else f"{value:+.4g}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
