"""``steer generate``: a reply without steering, and with it."""

import json
from typing import Annotated

import typer

from steer.cli.interrupts import importing
from steer.cli.options import (
    Device,
    Dtype,
    DtypeName,
    Json,
    Layer,
    Model,
    Seed,
    Threads,
    asked_threads,
    parse_clamp,
)


def generate(
    prompts: Annotated[list[str], typer.Argument(help="One or more prompts.", metavar="PROMPT...")],
    model: Model = "embedded",
    sae: Annotated[
        str | None,
        typer.Option(
            help="The SAE: a folder such as demo/sae, hub:owner/name/folder, or saelens:release/id.", show_default=False
        ),
    ] = None,
    clamp: Annotated[
        list[str] | None,
        typer.Option(help="Latent and value to set it to, such as 262=10; may be repeated.", metavar="LATENT=VALUE"),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = DtypeName.auto,
    threads: Threads = None,
    layer: Layer = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length limit of a reply, in tokens.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0: the likeliest token each time.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the likeliest tokens that sum to this.")] = 1.0,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Print the unsteered reply to each prompt and, with --sae and --clamp, the steered one."""
    clamps = read_clamps(clamp or [], sae, layer)
    with importing():
        from steer.checkpoints.load import load_sae
        from steer.cli.console import import_transformers
        from steer.models.chat import NO_TEMPLATE_NOTE
        from steer.models.decode import Sampling
        from steer.models.load import load_model
        from steer.models.site import Site
        from steer.steering.latents import Clamp
        from steer.steering.steered import mismatches, steered
        from steer.threads import torch_threads

        import_transformers()
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    lm = load_model(model, device, dtype.value, note=say)
    site = None if layer is None else Site(layer)
    interventions = [Clamp(load_sae(sae, note=say), clamps, site)] if sae else []
    notes = [] if lm.has_chat_template else [NO_TEMPLATE_NOTE]
    for note in notes + mismatches(lm, *interventions):
        say(note)
    with torch_threads(lm.model, asked_threads(threads)):
        with steered(lm, *interventions):
            edited = lm.generate(prompts, sampling)
        plain = lm.generate(prompts, sampling) if interventions else edited

    rows = [
        {"prompt": prompt, "unsteered": one, **({"steered": other} if interventions else {})}
        for prompt, one, other in zip(prompts, plain, edited, strict=True)
    ]
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
    else:
        for row in rows:
            typer.echo("\n".join(f"{name + ':':<11}{text}" for name, text in row.items()))


def say(note: str) -> None:
    """Something that the user should know: on stderr, so that replies can be piped."""
    typer.echo(f"note: {note}", err=True)


def read_clamps(texts: list[str], sae: str | None, layer: int | None) -> dict[int, float]:
    """The clamps that were asked for.

    Raises:
        typer.BadParameter: one has another form, a latent stands twice, or options are given that do not go together.
    """
    clamps = [parse_clamp(text) for text in texts]
    if bool(clamps) != (sae is not None):
        raise typer.BadParameter("--sae and --clamp belong together: give both or neither")
    if layer is not None and sae is None:
        raise typer.BadParameter("--layer says where the SAE acts: give it with --sae and --clamp, or leave it out")
    if len({latent for latent, _ in clamps}) < len(clamps):
        raise typer.BadParameter("a latent is clamped twice")
    return dict(clamps)
