"""Arguments that the verbs of ``steer index`` share."""

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(help="Folder of the index.", metavar="DIR")]
ModelName = Annotated[
    str, typer.Argument(help="`embedded`, a folder in transformers format, or a hub id.", metavar="MODEL")
]
SaeSource = Annotated[
    str,
    typer.Argument(help="The SAE: a path, hub:owner/name/folder@revision, or saelens:release/id.", metavar="SAE"),
]
