"""``steer generate``: a reply without steering, and with it."""

import json
from dataclasses import replace
from typing import Annotated, Any

import typer

from steer.cli.interrupts import importing
from steer.cli.notes import say
from steer.cli.options import Device, Dtype, DtypeName, Json, Threads, asked_threads
from steer.cli.who_answers import Clamps, Layer, Plan, Sae, WhoAnswers


def generate(
    prompts: Annotated[list[str], typer.Argument(help="One or more prompts.", metavar="PROMPT...")],
    model: Annotated[
        str | None,
        typer.Option(
            help="`embedded`, a folder in transformers format, or a hub id; else the plan's, else `embedded`.",
            show_default=False,
        ),
    ] = None,
    plan: Plan = None,
    sae: Sae = None,
    clamp: Clamps = None,
    layer: Layer = None,
    device: Device = "auto",
    dtype: Dtype = DtypeName.auto,
    threads: Threads = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Length limit of a reply, in tokens; 64 by default.", show_default=False)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0, by default: the likeliest token each time.", show_default=False)
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Sample from the likeliest tokens that sum to this; 1 by default.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of everything random; 0 by default.", min=0, max=2**62 - 1, show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the unsteered reply to each prompt and, with --plan or with --sae and --clamp, the steered one.

    The unsteered reply is without the plan's system prompt. Options given here count for more than what the plan says
    of model and sampling.
    """
    who = WhoAnswers(plan, sae, clamp, layer)
    with importing():
        from steer.cli.console import import_transformers
        from steer.models.chat import NO_TEMPLATE_NOTE
        from steer.models.decode import Sampling
        from steer.models.load import load_model
        from steer.responders.described import described
        from steer.steering.steered import steered
        from steer.threads import torch_threads

        import_transformers()
    named: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    named = {name: value for name, value in named.items() if value is not None}
    sampling, chosen = Sampling(**named), who.opened_plan()
    asked = model or (chosen.model.name if chosen else None) or "embedded"
    revision = chosen.model.revision if chosen and model is None else None
    lm = load_model(asked, device, dtype.value, revision, note=say)
    if not lm.has_chat_template:
        say(NO_TEMPLATE_NOTE)
    bound = chosen.bind(lm, say) if chosen is not None else who.clamped(lm)
    sampling = replace(bound.sampling or sampling, **named)
    steers = plan is not None or sae is not None
    with torch_threads(lm.model, asked_threads(threads)):
        with steered(lm, *bound.interventions):
            edited = lm.generate(bound.conversations(prompts), sampling)
        plain = lm.generate(prompts, sampling) if steers else edited

    rows = [
        {"prompt": prompt, "unsteered": one, **({"steered": other} if steers else {})}
        for prompt, one, other in zip(prompts, plain, edited, strict=True)
    ]
    if as_json:
        doing = {"plan": bound.digest or None, "interventions": [described(one) for one in bound.interventions]}
        recorded = {"model": lm.name, "sampling": vars(sampling), **doing} if steers else {}
        typer.echo(json.dumps([row | recorded for row in rows], ensure_ascii=False, indent=2))
        return
    show(rows)


def show(rows: list[dict[str, str]]) -> None:
    """The replies, on stdout."""
    for row in rows:
        typer.echo("\n".join(f"{name + ':':<11}{text}" for name, text in row.items()))
