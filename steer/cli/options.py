"""Options that several commands share, and how their values are read."""

import os
from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperCommand


class DtypeName(StrEnum):
    """Number formats of a model's weights."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Model = Annotated[str, typer.Option(help="`embedded`, a folder in transformers format, or a hub id.")]
Revision = Annotated[str | None, typer.Option(help="Commit, branch or tag of a hub's model.", show_default=False)]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
Layer = Annotated[int | None, typer.Option(help="Layer whose output is read and edited, from 0.", show_default=False)]
Device = Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda`, `cuda:1`, ...")]
Dtype = Annotated[DtypeName, typer.Option(help="Number format of the model; auto: float32 on a CPU, else its own.")]
Threads = Annotated[
    int | None,
    typer.Option(help="CPU threads; else OMP_NUM_THREADS, else 1 for a small model.", min=1, max=1024),
]
Processes = Annotated[
    int | None,
    typer.Option(help="Processes that share evaluation; else one for each CPU for a small model.", min=1, max=1024),
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0, max=2**62 - 1)]
Everything = Annotated[bool, typer.Option("--all", help="Show every figure, not the main ones alone.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def group(name: str, about: str) -> typer.Typer:
    """A group of commands: without one it shows its help, and errors are told by ``steer.cli.app``."""
    return typer.Typer(
        name=name, help=about, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )


class NothingEmpty(TyperCommand):
    """A command that takes no empty text for a name: a variable of the shell that is not set, more often than not."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See typer.

        Raises:
            typer.BadParameter: an argument, or the value of an option, is empty.
        """
        for before, value in zip(["", *args], args, strict=False):
            option = value[:-1] if value.strip() else before
            if not value.strip() and self.may_be_empty(before):
                continue
            if not value.strip() or (value.startswith("--") and value.endswith("=")):
                place = f" after {option}" if option.startswith("-") else ""
                raise typer.BadParameter(f"an empty text{place} names nothing: give a value, or leave it out")
        return super().parse_args(ctx, args)

    def may_be_empty(self, before: str) -> bool:
        """Whether the word behind ``before`` may be empty."""
        return False


class NoEmptyOption(NothingEmpty):
    """The same for the values of options; an argument, such as a prompt, may be empty."""

    def may_be_empty(self, before: str) -> bool:
        """Whether it is no value of an option."""
        valued = [one.opts for one in self.params if not getattr(one, "is_flag", False)]
        return not any(before in names for names in valued)


def parse_strengths(text: str) -> tuple[float, ...]:
    """``0,2,4`` as numbers.

    Raises:
        typer.BadParameter: something in it is not a number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"expected numbers separated by commas, such as 0,4,8; got {text!r}") from None


def parse_clamp(text: str) -> tuple[int, float]:
    """``262=10`` as latent and value.

    Raises:
        typer.BadParameter: it has another form.
    """
    latent, separator, value = text.partition("=")
    try:
        if not separator or not text.isascii() or "_" in text:  # Python would take them for numbers
            raise ValueError
        return int(latent), float(value)
    except ValueError:
        raise typer.BadParameter(f"expected LATENT=VALUE, such as 262=10; got {text!r}") from None


def asked_threads(option: int | None) -> int | None:
    """Threads that the user asked for, by ``--threads`` or by OMP_NUM_THREADS (which torch has read); else None."""
    if option is None and "OMP_NUM_THREADS" in os.environ:
        import torch

        return torch.get_num_threads()
    return option
