"""What ``steer train`` prints: the table of a run, and the estimate of one."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from steer.cli.console import duration, shown
from steer.training.estimate import Estimate
from steer.training.job import TrainedSAE, TrainingResult

UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def print_result(result: TrainingResult, as_json: bool) -> None:
    """The SAEs of a run."""
    if as_json:
        _json(dataclasses.asdict(result))
        return
    table = _table("" if result.done else "Not finished; the SAEs so far are in the newest checkpoint.")
    table.add_column("SAE", overflow="fold")
    for heading in ("tokens", "FVU", "L0", "dead %", "seconds", "tokens/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in result.saes:
        table.add_row(*_cells(one, result.done))
    Console().print(table)


def _cells(one: TrainedSAE, done: bool) -> Iterable[str]:
    yield escape(shown(one.folder)) if done else f"({escape(one.folder.name)})"
    yield f"{one.tokens:,}"
    yield _number(one.fvu, ".4f")
    yield _number(one.l0, ".1f")
    yield _number(None if one.dead_fraction is None else 100 * one.dead_fraction, ".1f")
    yield _number(one.seconds, ",.1f")
    yield _number(one.tokens_per_second, ",.0f")


def print_estimate(found: Estimate, as_json: bool) -> None:
    """What a run would take."""
    if as_json:
        _json(dataclasses.asdict(found))
        return
    many = found.ranks > 1
    whose = f" of each of {found.ranks} processes ({found.latent_shards} latent shards)" if many else ""
    memory = _table(f"Memory on {found.device}{whose}: about {size(found.bytes)}, without Python and its libraries")
    for heading in ("part", "bytes", "arithmetic", "when"):
        memory.add_column(heading, justify="right" if heading == "bytes" else "left", overflow="fold")
    for part in found.parts:
        memory.add_row(escape(part.name), size(part.bytes), escape(part.how), part.at)
    least, most = found.seconds
    apart = many * ", without exchange"
    times = _table(f"Time: {duration(least)} to {duration(most)} (model and SAEs overlap wholly, or not at all){apart}")
    times.add_column("measured")
    times.add_column("", justify="right")
    if found.model_tokens_per_second is not None:
        times.add_row("model, a burst at the beginning of the text", f"{found.model_tokens_per_second:,.0f} tokens/s")
    for number, seconds in enumerate(found.step_seconds):
        share = many * ", its share"
        times.add_row(f"SAE {number}, one step on random activations{share}", f"{1000 * seconds:,.1f} ms")
    times.add_row("steps to do", f"{found.steps - found.begins_at_step:,} of {found.steps:,}")
    files = _table(f"Files: at most about {size(found.file_bytes)}; {size(found.free_bytes)} are free")
    for heading in ("path", "size", "what"):
        files.add_column(heading, justify="right" if heading == "size" else "left", overflow="fold")
    for file in found.files:
        files.add_row(escape(shown(file.path)), "" if file.bytes is None else size(file.bytes), file.what)
    Console().print(memory, times, files, "Nothing was written.")


def size(count: int) -> str:
    """Bytes in a unit that suits."""
    number, unit = float(count), 0
    while number >= 1024 and unit < len(UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:,.0f} {UNITS[unit]}" if unit == 0 else f"{number:,.1f} {UNITS[unit]}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _table(title: str) -> Table:
    return Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)


def _json(data: dict[str, Any]) -> None:
    typer.echo(json.dumps(data, default=_plain, ensure_ascii=False))


def _plain(value: Any) -> str:
    assert isinstance(value, Path)
    return shown(value)
