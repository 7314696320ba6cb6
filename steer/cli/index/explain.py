"""``steer index explain``: labels by a model, with scores."""

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.index.options import Folder
from steer.cli.interrupts import importing
from steer.cli.options import Device, Dtype, DtypeName, Json, Seed

if TYPE_CHECKING:
    from steer.index.explain import Explained
    from steer.judges.asked import Writer


def explain(
    folder: Folder,
    latents: Annotated[str, typer.Option(help="Numbers of latents, such as 5,17,262.")],
    model: Annotated[
        str, typer.Option(help="The explainer: as the endpoint names it, or without --url a folder or a hub id.")
    ],
    url: Annotated[
        str | None,
        typer.Option(help="OpenAI-compatible endpoint, up to /v1; its key is taken from STEER_JUDGE_KEY."),
    ] = None,
    tested: Annotated[int, typer.Option(min=1, help="Windows of each kind in each test, at most.")] = 5,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of an explanation; more for a model that reasons.")] = 60,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do not put the labels into the index.")] = False,
    device: Device = "auto",
    dtype: Dtype = DtypeName.auto,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Have a model say what latents stand for, score that on windows it has not seen, and keep the labels.

    Detection: does the explanation tell texts on which the latent fires from others? Fuzzing: does it tell the tokens
    on which it fires from others of the same text? Chance is a half. Without --url the explainer runs here.
    """
    numbers = _numbers(latents)
    with importing():
        from steer.index.explain import ExplainConfig
        from steer.index.explain import explain as explained
        from steer.index.read import FeatureIndex
    index = FeatureIndex.open(folder)
    config = ExplainConfig(tested=tested, explanation_tokens=tokens, seed=seed)
    found = explained(index, numbers, _writer(model, url, device, dtype.value), config)
    labels = [one.label for one in found if one.label is not None]
    if not dry_run:
        index.add_labels(labels)
    if as_json:
        typer.echo(json.dumps([_row(one) for one in found], ensure_ascii=False, indent=2))
        return
    from steer.studies.text import visible

    for one in found:
        typer.echo(f"{one.latent}: {visible(one.label.text) if one.label else '(no label)'}")
        for test, rate in one.tests.items():
            typer.echo(f"  {test}: {rate}")
        if one.problem:
            typer.echo(f"  {visible(one.problem)}")


def _writer(model: str, url: str | None, device: str, dtype: Any) -> "Writer":
    from steer.judges.completions import KEY_VARIABLE, Endpoint
    from steer.judges.endpoint import EndpointWriter
    from steer.judges.generative import ModelWriter

    if url is not None:
        return EndpointWriter(Endpoint(url, model), os.environ.get(KEY_VARIABLE, "").strip())
    from steer.cli.console import import_transformers
    from steer.cli.generate import say
    from steer.models.load import load_model

    import_transformers()
    return ModelWriter(load_model(model, device, dtype, note=say))


def _numbers(text: str) -> Sequence[int]:
    """``5,17`` as numbers.

    Raises:
        typer.BadParameter: something in it is none.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise typer.BadParameter(f"--latents expects numbers separated by commas, such as 5,17; got {text!r}")
    return list(dict.fromkeys(map(int, parts)))


def _row(one: "Explained") -> dict[str, Any]:
    label = one.label
    return {
        "latent": one.latent,
        "label": None if label is None else label.text,
        "made_by": None if label is None else label.made_by,
        "scores": {} if label is None else dict(label.scores),
        "unread": one.unread,
        "problem": one.problem,
    }
