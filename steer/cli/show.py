"""``steer show``: what is known of one latent."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli.interrupts import importing
from steer.cli.options import Json
from steer.errors import DataError

if TYPE_CHECKING:
    from steer.index.card import Card
    from steer.index.render import Renderer


def show(
    source: Annotated[
        str,
        typer.Argument(help="Folder of an index; or an SAE, of which its weights are told.", metavar="SAE_OR_INDEX"),
    ],
    latent: Annotated[int, typer.Argument(help="Number of the latent.", min=0)],
    model: Annotated[
        str | None,
        typer.Option(help="With an SAE: the model whose tokens it promotes; else the one it was trained on."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Show all windows, not the strongest and one a stratum.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Draw the card of a latent: where it fires, how strongly, what it writes, which latents are like it.

    An index has all of that. Of an SAE without one, the tokens that a latent promotes and the latents that write alike
    are told, which its weights alone decide.
    """
    with importing():
        from steer.index.layout import INFO
    path = Path(source)
    try:
        is_index = (path / INFO).is_file()
    except OSError:
        is_index = False
    card, renderer = _of_index(path, latent) if is_index else _of_sae(source, latent, model)
    if as_json:
        typer.echo(json.dumps(card.to_json(renderer.pieces), ensure_ascii=False, indent=2, allow_nan=False))
        return
    from rich.console import Console

    from steer.cli.card import drawn

    Console(highlight=False).print(drawn(card, renderer, every))


def _of_index(path: Path, latent: int) -> "tuple[Card, Renderer]":
    from steer.cli.notes import say
    from steer.index.read import FeatureIndex

    index = FeatureIndex.open(path, note=say)
    return index.card(latent), index.renderer


def _of_sae(source: str, latent: int, model: str | None) -> "tuple[Card, Renderer]":
    from steer.checkpoints.load import load_sae
    from steer.cli.console import import_transformers
    from steer.cli.notes import say
    from steer.index.from_weights import card_of_weights
    from steer.models.load import load_model

    import_transformers()
    sae = load_sae(source, note=say)
    name = model or sae.config.model
    if name is None:
        raise DataError(f"{source} is no index, and does not say which model it is of. Name it: --model NAME.")
    return card_of_weights(sae, load_model(name, note=say), latent)
