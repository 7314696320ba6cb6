"""Arguments and options that the verbs of ``steer sae`` share."""

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[str, typer.Argument(help="A path, hub:owner/name/folder@revision, or saelens:release/id.")]
Out = Annotated[Path, typer.Argument(help="Where to write it.")]
FormatName = Annotated[
    str | None, typer.Option("--format", help="Format of SOURCE, if it is not recognised.", show_default=False)
]
K = Annotated[
    int | None,
    typer.Option(
        "--k",
        min=1,
        help="Latents active on a token, if the files do not say it; another number than theirs is refused.",
    ),
]
InputScale = Annotated[
    float | None,
    typer.Option(
        help="Factor of the activations in training, if the files do not say it; another than theirs is refused."
    ),
]
ModelName = Annotated[
    str | None, typer.Option("--model", help="Name of the language model, instead of what the files say.")
]
SiteName = Annotated[
    str | None,
    typer.Option("--site", help="Where the SAE reads, such as 12.resid_post, instead of what the files say."),
]
Revision = Annotated[str | None, typer.Option(help="Commit, branch or tag on the hub.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the SAE that is there.")]


def size(count: float) -> str:
    """Bytes, for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
