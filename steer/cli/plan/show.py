"""``steer plan show``: what a plan does."""

import json
from typing import TYPE_CHECKING, Any

import typer

from steer.cli.options import Json
from steer.cli.plan.options import PlanFile, opened

if TYPE_CHECKING:
    from rich.table import Table

    from steer.plans.plan import SteeringPlan


def show(file: PlanFile, as_json: Json = False) -> None:
    """Tell what a plan does: its model, SAEs, vectors, prompt, sampling and edits, and its digest."""
    plan = opened(file)
    if as_json:
        typer.echo(json.dumps(described(plan), ensure_ascii=False, indent=2))
        return
    from rich.console import Console

    Console().print(_table(file, plan))


def described(plan: "SteeringPlan") -> dict[str, Any]:
    """A plan as JSON data, with its digest, and of its vectors width and norm."""
    vectors = {
        name: {"width": len(vector), "norm": vector.double().norm().item()} for name, vector in plan.vectors.items()
    }
    return {**plan.data(), "vectors": vectors, "digest": plan.digest}


def _table(title: str, plan: "SteeringPlan") -> "Table":
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), box=box.SIMPLE_HEAD, show_header=False, title_justify="left")
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    data = described(plan)
    for name in ("label", "source", "licence", "digest", "system"):
        if data.get(name) is not None:
            table.add_row(name, escape(data[name]))
    if plan.fitted_on:
        table.add_row("fitted on", f"{len(plan.fitted_on):,} prompts")
    for name in ("model", "sampling"):
        if data.get(name):
            table.add_row(name, escape(_words(data[name])))
    for kind in ("saes", "vectors"):
        for name, one in data.get(kind, {}).items():
            table.add_row(f"{kind[:-1].replace('sae', 'SAE')} {escape(name)}", escape(_words(one)))
    table.add_section()
    for number, edit in enumerate(data.get("edits", [])):
        table.add_row(f"edits.{number}", escape(_edit(edit)))
    return table


def _edit(edit: dict[str, Any]) -> str:
    """An edit in one line, what decides most first."""
    rest = {
        name: value for name, value in edit.items() if name not in ("kind", "operation", "values", "window", "gate")
    }
    values = ", ".join(f"latent {latent} = {value:g}" for latent, value in edit.get("values", {}).items())
    first = edit.get("operation", "set" if edit["kind"] == "latents" else "add")
    parts = [f"{first} {values}".rstrip(), _words(rest)]
    parts += [f"{name}: {_words(edit[name])}" for name in ("window", "gate") if edit.get(name)]
    return "; ".join(parts)


def _words(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in fields.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"({_words(value)})"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
