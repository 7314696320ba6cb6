"""``steer generate``: a reply without steering, and with it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from steer.cli.options import Device, Json, Layer, Model, Seed, parse_clamp


def generate(
    prompts: Annotated[list[str], typer.Argument(help="One or more prompts.", metavar="PROMPT...")],
    model: Model = "embedded",
    sae: Annotated[Path | None, typer.Option(help="Folder of the SAE, such as demo/sae.", show_default=False)] = None,
    clamp: Annotated[
        list[str] | None,
        typer.Option(help="Latent and value to set it to, such as 262=10; may be repeated.", metavar="LATENT=VALUE"),
    ] = None,
    device: Device = "auto",
    layer: Layer = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length limit of a reply, in tokens.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0: the likeliest token each time.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the likeliest tokens that sum to this.")] = 1.0,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Print the unsteered reply to each prompt and, with --sae and --clamp, the steered one."""
    clamps = [parse_clamp(text) for text in clamp or []]
    if bool(clamps) != (sae is not None):
        raise typer.BadParameter("--sae and --clamp belong together: give both or neither")
    if len({latent for latent, _ in clamps}) < len(clamps):
        raise typer.BadParameter("a latent is clamped twice")

    from saes import load
    from steer.cli.console import quiet_transformers
    from steer.models.chat import NO_TEMPLATE_NOTE
    from steer.models.decode import Sampling
    from steer.models.load import load_model
    from steer.models.site import Site
    from steer.steering.interventions import Clamp
    from steer.steering.steered import steered

    quiet_transformers()
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    lm = load_model(model, device)
    site = None if layer is None else Site(layer)
    interventions = [Clamp(load(sae), dict(clamps), site)] if sae else []
    if not lm.has_chat_template:
        typer.echo(f"note: {NO_TEMPLATE_NOTE}", err=True)
    with steered(lm, *interventions):
        edited = lm.generate(prompts, sampling)
    plain = lm.generate(prompts, sampling) if interventions else edited

    rows = [
        {"prompt": prompt, "unsteered": one, **({"steered": other} if interventions else {})}
        for prompt, one, other in zip(prompts, plain, edited, strict=True)
    ]
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    for row in rows:
        typer.echo("\n".join(f"{name + ':':<11}{text}" for name, text in row.items()))
