"""``steer plan export``: a plan as plain steering vectors."""

from pathlib import Path
from typing import Annotated

import typer

from steer.cli.interrupts import importing
from steer.cli.notes import say
from steer.cli.plan.options import Overwrite, PlanFile, check_free, opened


def export(
    file: PlanFile,
    to: Annotated[Path, typer.Option(help="File to write: vectors.safetensors, or a control vector x.gguf.")],
    model_hint: Annotated[
        str | None, typer.Option(help="Name of the architecture that a GGUF file names, such as llama.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write what a plan adds to each layer as plain vectors, for llama.cpp, repeng, EasySteer and others.

    Such files say neither when nor where: an edit with a gate or a window, and a clamp, which adds something else to
    each token, are refused.
    """
    with importing():
        from steer.plans.vectors import export_vectors
    check_free(to, overwrite)
    found = export_vectors(opened(file), to, say, model_hint)
    norms = ", ".join(f"{layer} ({vector.norm().item():.4g})" for layer, vector in sorted(found.items()))
    typer.echo(f"{to}: layers (and norms) {norms}")
