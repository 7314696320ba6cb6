"""``steer sae``: what is done with an SAE itself."""

import typer

from steer.cli.sae_eval import evaluate

app = typer.Typer(name="sae", help="Measure sparse autoencoders.", no_args_is_help=True)


@app.callback()
def sae() -> None:
    """Measure sparse autoencoders."""


app.command("eval")(evaluate)
