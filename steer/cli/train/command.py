"""``steer train``: SAEs from text, in one command."""

from typing import Any

from steer.cli.interrupts import importing
from steer.cli.train.options import takes_options


@takes_options
def train(**options: Any) -> None:
    """Train sparse autoencoders on the activations of a model.

    Values separated by commas in --site, --d-sae, --k and --seed train one SAE each, every combination, from one
    reading of the text. Training is kept in a run folder: stopped with Ctrl-C, or killed, the same command goes on
    exactly where it was. Started by torchrun, its processes train together, with the losses of one.
    """
    with importing():
        from steer.cli.console import import_transformers
        from steer.cli.train.run import run

        import_transformers()
    run({name: value for name, value in options.items() if value is not None})
